"""Keys and passwords, which environment variables hold, stay out of what a run writes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_ENDINGS = ("API_KEY", "ACCESS_KEY", "TOKEN", "SECRET", "PASSWORD")
_SHORTEST = 8  # what is shorter is in many a text by chance
# As of variables: `pad_token: 3` is none.
_ASSIGNMENT = re.compile(rf"\b([A-Z][A-Z0-9_]*?(?:{'|'.join(_ENDINGS)}))(['\"]?\s*[=:]\s*)(\S+)")


def redact(text: str) -> str:
    """Returns a text with *** for values of secret variables, also of `WANDB_API_KEY=...`."""
    for value in _values().values():
        text = text.replace(value, "***")
    return _ASSIGNMENT.sub(r"\1\2***", text)


def check(texts: Iterable[str]) -> None:
    """Checks that there are no secrets in a run's options and config.

    Those are in its results, in Tune's files and in each checkpoint.

    Raises:
        ValueError: There is a secret variable's value, or an assignment to one; with its name.
    """
    for text in texts:
        names = [name for name, value in _values().items() if value in text]
        names += [found.group(1) for found in _ASSIGNMENT.finditer(text)]
        if names:
            raise ValueError(
                f"the value of {names[0]} is in the run's options or its config, which are written "
                "into results and checkpoints: have the env read it from the environment"
            )


def _values() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper().endswith(_ENDINGS) and len(value) >= _SHORTEST
    }
