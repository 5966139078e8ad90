"""Runs a command line and turns what it raises into a line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from rllib_ppg_cli import exit_code, redact
from rllib_ppg_cli.commands import rllib


def run(argv: Sequence[str]) -> int:
    """Runs a command line and returns the exit code."""
    argv = list(argv)
    try:
        return int(rllib.main(argv, "rllib", standalone_mode=False, obj=argv))
    except click.Abort:
        print(exit_code.last_line(exit_code.INTERRUPTED), end="", file=sys.stderr)
        return exit_code.INTERRUPTED
    except click.ClickException as error:
        return _fail(_usage_error(error), exit_code.BAD_INPUT)
    except (ValueError, OSError) as error:
        return _fail(str(error), exit_code.BAD_INPUT)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error}", exit_code.FAILED)


def _usage_error(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption | click.NoSuchCommand) and error.possibilities:
        return f"{error.message.rstrip('.')}; did you mean {error.possibilities[0]!r}?"
    message = error.format_message()
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return message
    return f"{message.rstrip('.')}; see {error.ctx.command_path} --help"


def _fail(message: str, code: int) -> int:
    # RLlib adds a line on how to switch its checks off.
    message = " ".join(message.split("To suppress all validation errors")[0].split())
    print(f"rllib: error: {redact.redact(message)}", file=sys.stderr)
    return code
