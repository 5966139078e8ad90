"""`rllib example list` and `get`: the experiments that come with this package."""

from __future__ import annotations

import ast
from pathlib import Path

from rllib_ppg.experiments.experiment_file import find_experiment_file, shipped_examples
from rllib_ppg_cli import exit_code


def main_list() -> int:
    """Prints a line for each example; returns the exit code."""
    examples = shipped_examples()
    width = max(len(path.stem) for path in examples)
    for path in examples:
        print(f"{path.stem:{width}}  {summary(path)}")
    return exit_code.OK


def main_get(file: str) -> int:
    """Prints an example's file; returns the exit code.

    Raises:
        ValueError: If there is no such example.
    """
    print(find_experiment_file(file).read_text(), end="")
    return exit_code.OK


def summary(path: Path) -> str:
    """Returns the first paragraph of an experiment file's description in one line."""
    return " ".join(head(path).split("\n\n")[0].split())


def head(path: Path) -> str:
    """Returns an experiment file's description: its docstring, or its first comment."""
    text = path.read_text()
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(comment)
