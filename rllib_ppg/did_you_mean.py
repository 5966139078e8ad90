"""Suggests the nearest valid choice, for errors."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint at the word that was meant, as in "; did you mean 'n_pi'?"; "" if nothing is near.

    Args:
        word: The mistyped word; case is ignored.
        choices: Valid words; those that start with an underscore are never suggested.
    """
    by_lower_case = {choice.lower(): choice for choice in choices if not choice.startswith("_")}
    matches = get_close_matches(word.lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[matches[0]]!r}?" if matches else ""
