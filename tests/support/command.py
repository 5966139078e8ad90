"""The installed `rllib` command, run as a user runs it."""

import shlex
import subprocess
import sys
from pathlib import Path

import click

from rllib_ppg_cli.command import given
from rllib_ppg_cli.commands import rllib

RLLIB = str(Path(sys.executable).parent / "rllib")


def run(*words, timeout=200, **kwargs):
    """Runs `rllib words...` to its end."""
    return subprocess.run(
        [RLLIB, *map(str, words)], capture_output=True, text=True, timeout=timeout, **kwargs
    )


def parse(command_line):
    """Returns the options that a command line gives to its sub-command."""
    name, *words = shlex.split(command_line)
    parent = click.Context(rllib, **rllib.context_settings)
    return given(rllib.commands[name].make_context(name, words, parent=parent))
