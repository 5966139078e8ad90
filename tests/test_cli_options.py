"""What scripts and habits rely on: the names of all options. A change here is a breaking change."""

import argparse
import subprocess

import pytest

from rllib_ppg.cli.parser import make_parser, sub_parsers
from tests.support.command import RLLIB, run

EXPERIMENT = {
    # As in Ray's own command, up to 2.40
    *("-a", "--algo", "-r", "--run", "-e", "--env", "-c", "--config", "-s", "--stop"),
    *("-n", "--experiment-name", "--num-samples", "--checkpoint-freq", "--checkpoint-at-end"),
    *("--keep-checkpoints-num", "--checkpoint-score-attr", "--storage-path", "--restore"),
    *("--resume", "--scheduler", "--scheduler-config", "-v"),
    # New ones
    *(
        "--max-failures",
        "--grace-time",
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
    "train file": TRAIN,
    "submit": EXPERIMENT | {"--address", "--attach", "--no-wait", "--results", "--runtime-env"},
    "evaluate": PLAY | {"--steps"},
    "record": PLAY | {"--fps"},
    "export": {"-o", "--out", "-v"},
    "plot": {
        *("-o", "--out", "--against", "--metric", "--reference", "--reference-experiments", "-v"),
    },
    "example": set(),
    "example list": set(),
    "example get": set(),
    "example run": TRAIN,
}


def parsers(parser, path=""):
    found = {path: parser}
    for name, sub in sub_parsers(parser).items():
        found |= parsers(sub, f"{path} {name}".strip())
    return found


def test_the_sub_commands_are_these():
    assert set(parsers(make_parser())) == set(OPTIONS)


@pytest.mark.parametrize("path", OPTIONS)
def test_the_options_are_these(path):
    names = {name for a in parsers(make_parser())[path]._actions for name in a.option_strings}
    assert names == OPTIONS[path] | {"-h", "--help"}


@pytest.mark.parametrize("path", OPTIONS)
def test_all_of_it_is_explained(path):
    parser = parsers(make_parser())[path]
    text = parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            explained = {choice.dest: choice.help for choice in action._choices_actions}
            assert set(explained) == set(action.choices)
            assert all(explained.values())
        else:
            assert action.help, action
            assert all(name in text for name in action.option_strings)


@pytest.mark.parametrize("words", [["--help"], ["train", "file", "--help"], ["--version"]])
def test_the_command_itself_helps(words):
    ended = run(*words)
    assert (ended.returncode, ended.stderr) == (0, "")
    expected = "rllib-ppg 0.1.0" if words == ["--version"] else "usage: rllib"
    assert ended.stdout.startswith(expected)


def test_a_reader_that_has_seen_enough_is_told_nothing():
    with subprocess.Popen(
        [RLLIB, "example", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        command.stdout.close()  # before anything is written
        assert command.stderr.read() == b""
    assert command.returncode == 1
