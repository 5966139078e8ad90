"""What the options of several sub-commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from rllib_ppg.experiments.experiment_file import parse_yaml


def mapping(text: str) -> Mapping[str, Any]:
    """Parses the value of an option that takes JSON or YAML, such as --config."""
    try:
        value = parse_yaml(text, "it")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not isinstance(value, Mapping):
        raise argparse.ArgumentTypeError(f"it must be a mapping as in '{{\"a\": 1}}', not {text!r}")
    return value


def setting(text: str) -> dict[str, Any]:
    """Parses `a.b=value`, the value being YAML, into {"a": {"b": value}}."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise argparse.ArgumentTypeError(f"it must be KEY=VALUE, as in n_pi=4, not {text!r}")
    try:
        parsed = parse_yaml(value, path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    for key in reversed(path.split(".")):
        parsed = {key: parsed}
    return parsed


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Adds -v and -vv."""
    parser.add_argument(
        "-v",
        dest="verbose",
        action="count",
        help="show Ray's logs and the workers' output; -vv: and tracebacks",
    )


def without(argv: Sequence[str], options: Sequence[str], flags: Sequence[str] = ()) -> list[str]:
    """Returns a command line without some options and their values, and without some flags."""
    kept: list[str] = []
    skip_value = False
    for word in argv:
        if not skip_value and word not in flags and word.split("=")[0] not in options:
            kept.append(word)
        skip_value = not skip_value and word in options
    return kept
