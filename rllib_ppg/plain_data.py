"""Nested data in one file that holds no code: JSON for the structure, npz for the arrays.

What a checkpoint holds of env runners and random number generators is written so. Unlike a pickle
it can be read from anywhere without running what it says; npz has a checksum of each array.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

_STRUCTURE = "structure"


def save(file: Path, data: Any) -> None:
    """Writes `data`: dicts with text keys, lists, tuples, numbers, text, bytes, arrays, None.

    Raises:
        ValueError: There is something else in it.
    """
    arrays: list[np.ndarray] = []
    text = json.dumps(_encoded(data, arrays))
    columns: dict[str, Any] = {f"array_{k}": array for k, array in enumerate(arrays)}
    np.savez(file, **columns, **{_STRUCTURE: np.array(text)})


def load(file: Path) -> Any:
    """Reads what `save` wrote.

    Raises:
        ValueError: The file is no such file, or is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            return _decoded(json.loads(stored[_STRUCTURE].item()), stored)
    except (BadZipFile, KeyError, EOFError, OSError, TypeError, ValueError) as e:
        raise ValueError(f"{file} is damaged: {e}") from e


def _encoded(x: Any, arrays: list[np.ndarray]) -> Any:
    if x is None or type(x) in (bool, int, float, str):
        return x
    if isinstance(x, dict) and all(isinstance(key, str) for key in x):
        return {"dict": {key: _encoded(value, arrays) for key, value in x.items()}}
    if isinstance(x, list | tuple):
        return {type(x).__name__: [_encoded(value, arrays) for value in x]}
    if isinstance(x, bytes):
        kind, array = "bytes", np.frombuffer(x, np.uint8)
    elif isinstance(x, np.ndarray | np.generic) and not x.dtype.hasobject:
        kind, array = "array", np.asarray(x)
    else:
        raise ValueError(f"{type(x).__name__} is no plain data: {x!r}")
    arrays.append(array)
    return {kind: len(arrays) - 1}


def _decoded(x: Any, stored: Any) -> Any:
    if not isinstance(x, dict):
        return x
    ((kind, value),) = x.items()
    if kind == "dict":
        return {key: _decoded(v, stored) for key, v in value.items()}
    if kind in ("list", "tuple"):
        items = [_decoded(v, stored) for v in value]
        return tuple(items) if kind == "tuple" else items
    array = stored[f"array_{value}"]
    if kind == "bytes":
        return array.tobytes()
    return array if array.ndim else array[()]
