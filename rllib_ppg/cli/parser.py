"""The command line's options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from rllib_ppg.cli import train
from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiment_file import parse_yaml


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line.

    Its `parse_args` raises a ValueError for what it doesn't understand.
    """
    parser = _Parser(prog="rllib", description="Train RLlib's algorithms, PPG among them.")
    parser.add_argument("--version", action="version", version=f"rllib-ppg {version('rllib-ppg')}")
    parser.set_defaults(main=_no_command)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_CommandParser)

    about = "train an algorithm on an environment, or run an experiment file"
    parser_train = commands.add_parser(
        "train",
        help=about,
        description=about.capitalize() + ".",
        usage="rllib train --algo NAME --env ID [options]\n       rllib train file FILE [options]",
    )
    parser_train.set_defaults(main=train.main)
    _add_train_options(parser_train)

    sources = parser_train.add_subparsers(metavar="file")
    about = "run an experiment file; the options above, if given, override what it says"
    parser_file = sources.add_parser(
        "file",
        help=about,
        description=about.capitalize() + ".",
        usage="rllib train file FILE [options]",
    )
    parser_file.add_argument("file", help="a .yaml file, or the name of a shipped example")
    _add_train_options(parser_file)
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
        options = self._option_string_actions
        for word in (word.split("=")[0] for word in args if word.startswith("--")):
            if word not in options:
                hint = did_you_mean(word, options) or f"; see {self.prog} --help"
                self.error(f"there is no option {word}{hint}")
        return super().parse_known_args(args, namespace)


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--algo", "--run", "-a", "-r", metavar="NAME", help="PPG, or one of RLlib's own, as in PPO"
    )
    what.add_argument("--env", "-e", metavar="ID", help="a gymnasium id, as in procgen-coinrun-v0")
    what.add_argument(
        "--config",
        "-c",
        type=_mapping,
        metavar="{...}",
        help="the algorithm's config as JSON or YAML, as in '{\"n_pi\": 4}'",
    )
    what.add_argument("--seed", type=int, metavar="N", help="the config's seed")
    what.add_argument(
        "--num-samples", type=int, metavar="N", help="how often to run the config or its grid (1)"
    )

    how_long = parser.add_argument_group("for how long, and what to keep")
    how_long.add_argument(
        "--stop",
        "-s",
        type=_mapping,
        metavar="{...}",
        help="results at which to stop, as in '{\"num_env_steps_sampled_lifetime\": 100000}'",
    )
    how_long.add_argument(
        "--checkpoint-freq", type=int, metavar="N", help="save every N iterations (never)"
    )
    how_long.add_argument(
        "--checkpoint-at-end", action=argparse.BooleanOptionalAction, help="save at the end (no)"
    )
    how_long.add_argument("--restore", metavar="PATH", help="go on from this checkpoint")
    how_long.add_argument("--storage-path", metavar="PATH", help="where results go (~/ray_results)")
    how_long.add_argument(
        "--experiment-name", "-n", metavar="NAME", help="their folder's name (algorithm and date)"
    )

    where = parser.add_argument_group("where")
    where.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="a Ray cluster (the one that runs here, or a new one)",
    )
    where.add_argument("--ray-num-cpus", type=int, metavar="N", help="CPUs of the new one (all)")
    where.add_argument(
        "--ray-object-store-memory", type=int, metavar="BYTES", help="its object store's size"
    )

    parser.add_argument(
        "-v",
        dest="verbose",
        action="count",
        help="show Ray's logs and the workers' output; -vv: and tracebacks",
    )


def _mapping(text: str) -> Mapping[str, Any]:
    """Parses the value of --config or --stop."""
    try:
        value = parse_yaml(text, "it")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not isinstance(value, Mapping):
        raise argparse.ArgumentTypeError(f"it must be a mapping as in '{{\"a\": 1}}', not {text!r}")
    return value
