"""The `rllib` command; each sub-command has a file of its own."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from rllib_ppg.cli.parser import make_parser

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments; None takes the process's own.

    Returns:
        The exit code: 0 after success, 1 after a failed run, 2 for bad input, 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = make_parser().parse_args(argv)
        return args.main(args, argv)
    except KeyboardInterrupt:
        print("rllib: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:
        message, code = str(error), EXIT_BAD_INPUT
    except Exception as error:
        message, code = f"{type(error).__name__}: {error}", EXIT_FAILED
    if "-vv" in argv:
        traceback.print_exc()
    print(f"rllib: error: {message}", file=sys.stderr)
    return code
