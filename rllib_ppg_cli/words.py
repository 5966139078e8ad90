"""The words of a command line."""

from __future__ import annotations

from collections.abc import Sequence


def without(argv: Sequence[str], options: Sequence[str], flags: Sequence[str] = ()) -> list[str]:
    """Returns a command line without some options and their values, and without some flags."""
    kept: list[str] = []
    skip_value = False
    for word in argv:
        if not skip_value and word not in flags and word.split("=")[0] not in options:
            kept.append(word)
        skip_value = not skip_value and word in options
    return kept
