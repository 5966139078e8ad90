"""What the sub-commands that take a checkpoint have in common."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rllib_ppg.cli.options import add_verbose, mapping

if TYPE_CHECKING:
    from ray.rllib.algorithms import AlgorithmConfig

    from rllib_ppg.evaluation.trained_policy import TrainedPolicy

TRUST = (
    "A checkpoint is pickled Python, which can run any code when it is read: give only checkpoints "
    "that you trust."
)


def add_command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """Adds a sub-command that takes a checkpoint."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}. {TRUST}",
        usage=f"rllib {name} CHECKPOINT [options]",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a checkpoint's folder, or a trial's, of which the newest checkpoint is taken",
    )
    add_verbose(parser)
    return parser


def add_play_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what the policy plays, and how."""
    parser.add_argument(
        "--env", "-e", metavar="ID", help="another environment than that of the training"
    )
    parser.add_argument(
        "--env-config",
        type=mapping,
        metavar="{...}",
        help="settings of the env, merged into the training's or its evaluation's, as in "
        "'{\"num_levels\": 0}'",
    )
    parser.add_argument(
        "--config",
        "-c",
        type=mapping,
        metavar="{...}",
        help="settings of the algorithm, in the training's place",
    )
    parser.add_argument(
        "--explore",
        action=argparse.BooleanOptionalAction,
        help="sample actions, as Procgen's published returns do, or take the most probable ones "
        "(what `explore` says in the training's config, or in its evaluation_config: PPG samples)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the env and the actions (0)")


def load_policy(options: Mapping[str, Any], *, num_envs: int = 1) -> TrainedPolicy:
    """Returns the policy of the checkpoint that is asked for, and prints which one it is.

    Args:
        options: With the checkpoint.
        num_envs: How many envs it is to play at a time.

    Raises:
        ValueError: If there is none.
    """
    import torch

    from rllib_ppg.evaluation import trained_policy
    from rllib_ppg.resources.cpu import available_cpus

    policy = trained_policy.load_policy(options["checkpoint"])
    is_image = len(policy.module.observation_space.shape or ()) == 3
    # A few vectors, or one image, are done with before other threads have heard of them. For more,
    # two threads a CPU: with one, OpenMP's wait for each other by spinning, which takes many times
    # as long beside a training that has the CPUs.
    torch.set_num_threads(2 * available_cpus() if is_image and num_envs > 1 else 1)
    print(f"checkpoint: {policy.checkpoint}")
    return policy


def play_config(policy: TrainedPolicy, options: Mapping[str, Any]) -> AlgorithmConfig:
    """Returns the policy's config with what `add_play_options`' options change.

    Raises:
        ValueError: If there is no such setting, or it is the seed, which has an option.
    """
    if "seed" in options.get("config", {}):
        raise ValueError("the seed of what is played is not the training's: give --seed")
    keys = ("env", "env_config", "config")
    return policy.config_with(**{key: options[key] for key in keys if key in options})


def check_out(out: str) -> Path:
    """Returns the path of a file to write.

    Raises:
        ValueError: If its folder does not exist.
    """
    path = Path(out).expanduser()
    if not path.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {path.parent}")
    return path


def check_positive(options: Mapping[str, Any], *names: str) -> None:
    """Raises ValueError if an option that counts something is given and below 1."""
    for name in names:
        if options.get(name, 1) < 1:
            raise ValueError(f"--{name} must be 1 or more, not {options[name]}")
