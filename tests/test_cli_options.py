"""What scripts and habits rely on: the names of all options. A change here is a breaking change."""

import json
import os
import subprocess
import sys

import click
import pytest

from rllib_ppg_cli import main
from rllib_ppg_cli.commands import rllib
from tests.support.command import RLLIB, run

EXPERIMENT = {
    # As in Ray's own command, up to 2.40
    *("-a", "--algo", "-r", "--run", "-e", "--env", "-c", "--config", "-s", "--stop"),
    *("-n", "--experiment-name", "--num-samples", "--checkpoint-freq", "--checkpoint-at-end"),
    *("--keep-checkpoints-num", "--checkpoint-score-attr", "--storage-path", "--restore"),
    *("--resume", "--scheduler", "--scheduler-config", "-v"),
    # New ones
    *(
        "--env-config",
        "--max-failures",
        "--grace-time",
        "--device",
        "--search",
        "--seed",
        "--set",
        "--dry-run",
        "--as-test",
        "--no-checkpoint-at-end",
        "--track",
    ),
    *("--wandb-project", "--wandb-group", "--wandb-mode", "--wandb-checkpoints", "--wandb-videos"),
}
TRAIN = EXPERIMENT | {
    *("--ray-address", "--ray-num-cpus", "--ray-num-gpus", "--ray-object-store-memory"),
}
PLAY = {
    *("-e", "--env", "--env-config", "-c", "--config", "--episodes", "--explore", "--no-explore"),
    *("--seed", "-o", "--out", "-v"),
}
OPTIONS = {
    "": {"--version"},
    "train": TRAIN,
    "submit": EXPERIMENT | {"--address", "--attach", "--no-wait", "--runtime-env"},
    "evaluate": PLAY | {"--steps"},
    "record": PLAY | {"--fps", "--steps"},
    "export": {"-o", "--out", "--module-id", "--episodes", "--push", "-v"},
    "plot": {
        *("-o", "--out", "--against", "--metric", "--reference", "--reference-experiments", "-v"),
    },
    "report": {"-o", "--out", "-v"},
    "example": set(),
    "example list": {"-v"},
    "example get": {"-v"},
    "example run": TRAIN,
}


def commands(command=rllib, path=""):
    """All commands by their path: "" is `rllib` itself."""
    found = {path: command}
    for name, sub in getattr(command, "commands", {}).items():
        found |= commands(sub, f"{path} {name}".strip())
    return found


def options_of(command):
    parent = rllib.make_context("rllib", [], resilient_parsing=True)
    context = command.make_context("x", [], parent=parent, resilient_parsing=True)
    return [param for param in command.get_params(context) if isinstance(param, click.Option)]


def test_the_sub_commands_are_these():
    assert set(commands()) == set(OPTIONS)


@pytest.mark.parametrize("path", OPTIONS)
def test_the_options_are_these(path):
    names = {
        name
        for option in options_of(commands()[path])
        for name in (*option.opts, *option.secondary_opts)
    }
    assert names == OPTIONS[path] | {"-h", "--help"}


@pytest.mark.parametrize("path", OPTIONS)
def test_all_of_it_is_explained(path, capsys):
    assert main([*path.split(), "--help"]) == 0
    text = capsys.readouterr().out
    command = commands()[path]
    assert command.help and command.help in " ".join(text.split())
    for param in command.params:
        assert param.help, param
    for option in options_of(command):
        assert all(name in text for name in (*option.opts, *option.secondary_opts))
    for name, sub in getattr(command, "commands", {}).items():
        assert name in text
        assert sub.get_short_help_str(limit=200) in text


LIGHT = {
    "--help": 0,
    "--version": 0,
    **{f"{path} --help": 0 for path in OPTIONS},
    "trian": 2,
    "train --stpo 1": 2,
    "train --seed x": 2,
    "train nothing": 2,
    "train file": 2,
    "evaluate": 2,
    "example": 2,
    "plot run --reference opnai": 2,
}


def test_help_and_mistyped_options_import_neither_ray_nor_torch():
    """One process for all, since whatever one of them imports stays imported."""
    code = f"""
import json, sys
from rllib_ppg_cli import main
for line, code in json.loads({json.dumps(json.dumps(LIGHT))}).items():
    assert main(line.split()) == code, line
heavy = ("ray", "torch", "numpy", "gymnasium", "matplotlib", "pyarrow", "yaml", "rllib_ppg")
print("imported:", [name for name in heavy if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("imported: []\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("rllib tr", {"plain,train"}),
        ("rllib train --wandb-m", {"plain,--wandb-mode"}),
        ("rllib train --config {a:1} --wandb-mode o", {"plain,online", "plain,offline"}),
        ("rllib example ge", {"plain,get"}),
    ],
)
def test_a_shell_completes_without_heavy_imports(words, expected):
    code = """
import atexit, sys
atexit.register(lambda: print([name for name in ("ray", "torch") if name in sys.modules]))
from rllib_ppg_cli import main
main()
"""
    env = os.environ | {
        "_RLLIB_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    *completions, heavy = ended.stdout.splitlines()
    assert (set(completions), heavy) == (expected, "[]")


@pytest.mark.parametrize("words", [["--help"], ["train", "file", "--help"], ["--version"]])
def test_the_command_itself_helps(words):
    ended = run(*words)
    assert (ended.returncode, ended.stderr) == (0, "")
    expected = "rllib-ppg 0.2.0" if words == ["--version"] else "Usage: rllib"
    assert ended.stdout.startswith(expected)


def test_a_reader_that_has_seen_enough_is_told_nothing():
    with subprocess.Popen(
        [RLLIB, "example", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        command.stdout.close()  # before anything is written
        assert command.stderr.read() == b""
    assert command.returncode == 141
