"""Keeps keys and passwords in environment variables out of what a run writes."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllib_ppg.experiments.experiment import Experiment

_ENDINGS = ("API_KEY", "ACCESS_KEY", "TOKEN", "SECRET", "PASSWORD")
_SHORTEST = 8  # shorter values occur in many texts by chance
# Only upper-case names, as of environment variables: `pad_token: 3` is an ordinary setting.
_ASSIGNMENT = re.compile(rf"\b([A-Z][A-Z0-9_]*?(?:{'|'.join(_ENDINGS)}))(['\"]?\s*[=:]\s*)(\S+)")


def redact(text: str, setting: str = "") -> str:
    """Returns a text in which *** replaces secret values and what follows `..._API_KEY=`.

    Args:
        text: The text.
        setting: Path of the setting whose value it is. If its name is that of a secret, *** is all.
    """
    if text and not text.isdecimal() and setting.upper().endswith(_ENDINGS):
        return "***"
    for value in _values().values():
        for spelling in _spellings(value):
            text = text.replace(spelling, "***")
    return _ASSIGNMENT.sub(r"\1\2***", text)


def check_run(argv: Sequence[str], experiment: Experiment, file: Path | None) -> None:
    """Checks that what a run's files repeat contains no secrets.

    Args:
        argv: The command line.
        experiment: The experiment.
        file: Its file, if it is given by one.

    Raises:
        ValueError: An option, the config or a Python file contains one.
    """
    check([*argv, str(experiment), *_strings(vars(experiment))])
    if file is not None and file.suffix == ".py":
        text = file.read_text()
        # `TOKEN = os.environ["TOKEN"]` is no secret, and neither is a docstring's `TOKEN=...`.
        nodes = ast.walk(ast.parse(text))
        constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
        check([text, *_strings(constants)], assignments=False)


def check(texts: Iterable[str], *, assignments: bool = True) -> None:
    """Checks texts that a run's files repeat.

    Args:
        texts: The texts.
        assignments: Whether to look for `..._API_KEY=`, too.

    Raises:
        ValueError: A text contains a secret variable's value or an assignment to one.
    """
    for text in texts:
        names = [
            name
            for name, value in _values().items()
            if any(spelling in text for spelling in _spellings(value))
        ]
        if assignments:
            names += [found.group(1) for found in _ASSIGNMENT.finditer(text)]
        if names:
            raise ValueError(
                f"the value of {names[0]} is in the run's options, its config or its file, which "
                "are written into results and checkpoints: let the env read it from the "
                "environment instead"
            )


def _spellings(value: str) -> set[str]:
    """A value as it is, and as Python, JSON, YAML and shells write it with quotes and backslashes.

    Without the quotes around it.
    """
    quoted = shlex.quote(value)
    return {
        value,
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
        value.replace("'", "''"),
        quoted[1:-1] if quoted != value else value,
    }


def _strings(value: Any) -> Iterator[str]:
    """All texts in nested settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings([*value, *value.values()])
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from _strings(part)


def _values() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper().endswith(_ENDINGS) and len(value) >= _SHORTEST
    }
