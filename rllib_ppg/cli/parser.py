"""The command line as a whole: one sub-command after the other, and how mistyping is met."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

import rllib_ppg
from rllib_ppg.cli import evaluate, example, export, plot, record, submit, train
from rllib_ppg.did_you_mean import did_you_mean

COMMANDS = (train, submit, evaluate, record, export, example, plot)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line.

    Its `parse_args` raises a ValueError for what it doesn't understand.
    """
    parser = _Parser(prog="rllib", description="Train RLlib's algorithms, PPG among them.")
    parser.add_argument("--version", action="version", version=f"rllib-ppg {rllib_ppg.__version__}")
    parser.set_defaults(main=_no_command)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_CommandParser)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _no_command(args: argparse.Namespace, argv: Sequence[str]) -> NoReturn:
    raise ValueError("give a command, as in `rllib train file procgen_small`; see rllib --help")


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False, argument_default=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _CommandParser(_Parser):
    """Names the option that was meant by a mistyped one."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: Any = None
    ) -> Any:
        options = option_names(self)
        for word in (word.split("=")[0] for word in args if word.startswith("--")):
            if word not in options:
                hint = did_you_mean(word, options) or f"; see {self.prog} --help"
                self.error(f"there is no option {word}{hint}")
        return super().parse_known_args(args, namespace)


def option_names(parser: argparse.ArgumentParser) -> set[str]:
    """Returns the names of a parser's options, those of its sub-commands included."""
    names = set(parser._option_string_actions)
    for sub in sub_parsers(parser).values():
        names |= option_names(sub)
    return names


def sub_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Returns the parsers of a parser's sub-commands by their names."""
    return {
        name: sub
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, sub in action.choices.items()
    }
