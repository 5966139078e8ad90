"""`rllib example`: the experiments that come with this package, shown and run."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rllib_ppg.cli import exit_code, train
from rllib_ppg.experiments.experiment_file import find_experiment_file, shipped_examples


def add_parser(commands: Any) -> None:
    """Adds `rllib example`, and `list`, `get` and `run` below it."""
    about = "list, print or run the experiments that come with this package"
    parser = commands.add_parser(
        "example",
        help=about,
        description=about.capitalize() + ".",
        usage="rllib example list\n       rllib example get NAME\n"
        "       rllib example run NAME [options of rllib train]",
    )
    parser.set_defaults(main=_no_action)
    actions = parser.add_subparsers(metavar="ACTION")

    about = "name the examples and say what each is"
    parser_list = actions.add_parser("list", help=about, description=about.capitalize() + ".")
    parser_list.set_defaults(main=main_list)

    about = "print an example's file, as a start for one of your own"
    parser_get = actions.add_parser(
        "get",
        help=about,
        description=about.capitalize() + ".",
        usage="rllib example get NAME > my_experiment.yaml",
    )
    parser_get.add_argument("file", metavar="NAME", help="see rllib example list")
    parser_get.set_defaults(main=main_get)

    about = "run an example, as `rllib train file NAME` does; the options override what it says"
    parser_run = actions.add_parser(
        "run",
        help=about,
        description=about.capitalize() + ".",
        usage="rllib example run NAME [options]",
    )
    parser_run.add_argument("file", metavar="NAME", help="see rllib example list")
    train.add_options(parser_run)
    parser_run.set_defaults(main=train.main)


def main_list(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Prints a line for each example; returns the exit code."""
    examples = shipped_examples()
    width = max(len(path.stem) for path in examples)
    for path in examples:
        print(f"{path.stem:{width}}  {summary(path)}")
    return exit_code.OK


def main_get(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Prints an example's file; returns the exit code.

    Raises:
        ValueError: There is no such example.
    """
    print(find_experiment_file(args.file).read_text(), end="")
    return exit_code.OK


def summary(path: Path) -> str:
    """Returns the first paragraph of what stands at an experiment file's head, in one line."""
    return " ".join(head(path).split("\n\n")[0].split())


def head(path: Path) -> str:
    """Returns what an experiment file says of itself: its docstring, or its first comment."""
    text = path.read_text()
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(comment)


def _no_action(args: argparse.Namespace, argv: Sequence[str]) -> NoReturn:
    raise ValueError("give an action: rllib example list, get NAME or run NAME")
