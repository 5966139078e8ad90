"""Values of settings: whether they are numbers, and how an error shows them."""

from __future__ import annotations

import math
from typing import Any

_FLOAT32_MAX = 3.4e38


def is_whole(value: Any) -> bool:
    """Whether a value is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that float32 can hold."""
    if is_whole(value):
        return abs(value) < 2**63
    return isinstance(value, float) and abs(value) < _FLOAT32_MAX


def format_value(value: Any) -> str:
    """A value in one line, with its type unless a file could hold it."""
    if is_whole(value) and value.bit_length() > 64:
        return f"one of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    text = text if len(text) <= 200 else f"{text[:200]}..."
    if isinstance(value, float) and _FLOAT32_MAX <= value < math.inf:
        return f"{text}, which is more than float32 holds"
    plain = value is None or isinstance(value, int | float | str | list | tuple | dict)
    return text if plain else f"{text} of type {type(value).__name__}"
