"""lz4-compressed observations, for a replay list that would not fit otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import lz4.block
import numpy as np


@dataclass
class Compressed:
    """An array compressed with lz4, without loss.

    Attributes:
        data: Compressed bytes, uint8 `[bytes]`; an array, so that the object store returns it
            without a copy.
        shape: Shape of the original array.
        dtype: Dtype of the original array.
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
        """Number of compressed bytes."""
        return self.data.nbytes

    def array(self) -> np.ndarray:
        """The original array; writable."""
        size = math.prod(self.shape) * self.dtype.itemsize
        data = lz4.block.decompress(self.data, uncompressed_size=size, return_bytearray=True)
        return np.frombuffer(data, self.dtype).reshape(self.shape)
