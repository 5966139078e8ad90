"""Observations under lz4, for a replay list that would not fit otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import lz4.block
import numpy as np


@dataclass
class Compressed:
    """An array under lz4; exact.

    Attributes:
        data: uint8 `[bytes]`; an array, so that the object store hands it out without a copy.
        shape: of the array.
        dtype: of the array.
    """

    data: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, array: np.ndarray) -> Compressed:
        """Compresses an array of any shape and dtype."""
        data = lz4.block.compress(np.ascontiguousarray(array), store_size=False)
        return cls(np.frombuffer(data, np.uint8), array.shape, array.dtype)

    @property
    def nbytes(self) -> int:
        """Compressed bytes."""
        return self.data.nbytes

    def array(self) -> np.ndarray:
        """The array again; writable."""
        size = math.prod(self.shape) * self.dtype.itemsize
        data = lz4.block.decompress(self.data, uncompressed_size=size, return_bytearray=True)
        return np.frombuffer(data, self.dtype).reshape(self.shape)
