"""The nearest valid choice, for error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Returns a hint at what a mistyped word was meant to be, or "" if nothing is near.

    Args:
        word: What was given; case does not count.
        choices: What would have been valid; private names are never hinted at.
    """
    by_lower_case = {choice.lower(): choice for choice in choices if not choice.startswith("_")}
    matches = get_close_matches(word.lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[matches[0]]!r}?" if matches else ""
