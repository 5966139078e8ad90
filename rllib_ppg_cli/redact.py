"""Keeps keys and passwords in environment variables out of what a run writes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_ENDINGS = ("API_KEY", "ACCESS_KEY", "TOKEN", "SECRET", "PASSWORD")
_SHORTEST = 8  # shorter values occur in many texts by chance
# Only upper-case names, as of environment variables: `pad_token: 3` is an ordinary setting.
_ASSIGNMENT = re.compile(rf"\b([A-Z][A-Z0-9_]*?(?:{'|'.join(_ENDINGS)}))(['\"]?\s*[=:]\s*)(\S+)")


def redact(text: str) -> str:
    """Returns a text in which *** replaces secret values and what follows `..._API_KEY=`."""
    for value in _values().values():
        text = text.replace(value, "***")
    return _ASSIGNMENT.sub(r"\1\2***", text)


def check(texts: Iterable[str]) -> None:
    """Checks that a run's options and config, which its files repeat, contain no secrets.

    Raises:
        ValueError: If they contain a secret variable's value or an assignment to one.
    """
    for text in texts:
        names = [name for name, value in _values().items() if value in text]
        names += [found.group(1) for found in _ASSIGNMENT.finditer(text)]
        if names:
            raise ValueError(
                f"the value of {names[0]} is in the run's options or its config, which are written "
                "into results and checkpoints: let the env read it from the environment instead"
            )


def _values() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper().endswith(_ENDINGS) and len(value) >= _SHORTEST
    }
