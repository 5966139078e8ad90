"""The `rllib` command.

It is a package next to `rllib_ppg`, because importing `rllib_ppg` imports RLlib and torch, which
takes seconds. This module imports next to nothing, so that even a signal in the first moment ends
the command as it should.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rllib_ppg_cli import signals, terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments. None means those of the process, whose signals and output are then
            taken care of, too.

    Returns:
        The exit code (see `exit_code`).
    """
    if argv is not None:
        from rllib_ppg_cli.run import run

        return run(argv)
    signals.raise_them()
    terminal.survive()
    code = main(sys.argv[1:])
    sys.stdout.flush()  # here, where a closed pipe still ends it properly
    return code
