"""Nested data in one file without code: JSON for the structure, npz for the arrays.

Checkpoints hold the states of env runners and random generators in this form. Unlike a pickle, the
file can't run code when it is read. npz has a checksum for each array.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

_STRUCTURE = "structure"


def save(file: Path, data: Any) -> None:
    """Writes plain data, which `load` reads.

    Raises:
        ValueError: It is not plain data.
    """
    check(data, "the data to save")
    arrays: list[np.ndarray] = []
    text = json.dumps(_encoded(data, arrays))
    columns: dict[str, Any] = {f"array_{k}": array for k, array in enumerate(arrays)}
    np.savez(file, **columns, **{_STRUCTURE: np.array(text)})


def load(file: Path) -> Any:
    """Reads what `save` wrote.

    Raises:
        ValueError: The file is damaged, or was not written by `save`.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            return _decoded(json.loads(stored[_STRUCTURE].item()), stored)
    except (BadZipFile, KeyError, EOFError, OSError, TypeError, ValueError) as e:
        raise ValueError(f"{file} is damaged: {e}") from e


def check(x: Any, what: str) -> None:
    """Checks that `x` is plain data.

    Plain data are None, numbers, text, bytes, arrays, and lists, tuples and dicts of these, with
    text as keys.

    Args:
        x: Any value.
        what: Name of the value, for the error.

    Raises:
        ValueError: It is not plain data.
    """
    if isinstance(x, dict):
        for key, value in x.items():
            if not isinstance(key, str):
                raise ValueError(f"{what} has the key {key!r}, where plain data have text")
            check(value, what)
    elif isinstance(x, list | tuple):
        for value in x:
            check(value, what)
    elif isinstance(x, np.ndarray | np.generic) and not x.dtype.hasobject:
        return
    elif x is not None and type(x) not in (bool, int, float, str, bytes):
        raise ValueError(f"{what} holds a {type(x).__name__}, which is not plain data")


def _encoded(x: Any, arrays: list[np.ndarray]) -> Any:
    if x is None or type(x) in (bool, int, float, str):
        return x
    if isinstance(x, dict):
        return {"dict": {key: _encoded(value, arrays) for key, value in x.items()}}
    if isinstance(x, list | tuple):
        kind = "tuple" if isinstance(x, tuple) else "list"
        return {kind: [_encoded(value, arrays) for value in x]}
    is_bytes = isinstance(x, bytes)
    arrays.append(np.frombuffer(x, np.uint8) if is_bytes else np.asarray(x))
    return {"bytes" if is_bytes else "array": len(arrays) - 1}


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
