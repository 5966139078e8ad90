"""The `rllib` command; each sub-command has a file of its own."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence

from rllib_ppg.cli import exit_code, redact
from rllib_ppg.cli.parser import make_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments; None takes the process's own.

    Returns:
        The exit code, see `exit_code`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = make_parser().parse_args(argv)
        return args.main(args, argv)
    except KeyboardInterrupt:
        print("rllib: interrupted", file=sys.stderr)
        return exit_code.INTERRUPTED
    except BrokenPipeError:  # who reads the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_code.FAILED
    except Exception as error:
        if sum(word.count("v") for word in argv if re.fullmatch("-v+", word)) > 1:
            traceback.print_exception(error)
        is_input = isinstance(error, ValueError | OSError)
        message = str(error) if is_input else f"{type(error).__name__}: {error}"
        # RLlib adds how to switch its checks off, on a line of its own.
        message = " ".join(message.split("To suppress all validation errors")[0].split())
        print(f"rllib: error: {redact.redact(message)}", file=sys.stderr)
        return exit_code.BAD_INPUT if is_input else exit_code.FAILED
