"""What the commands that take a checkpoint have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from ray.rllib.algorithms import AlgorithmConfig

from rllib_ppg.envs.spaces import num_pixels
from rllib_ppg.evaluation.trained_policy import TrainedPolicy, load_policy, newest_checkpoints
from rllib_ppg.plots.best_trials import best_trials, in_words
from rllib_ppg.plots.results import read_trials
from rllib_ppg.resources.cpu import available_cpus
from rllib_ppg_cli.command import VERBOSE
from rllib_ppg_cli.quiet import keep_quiet


def load_player(
    checkpoint: str, *, num_envs: int = 1, module_id: str | None = None
) -> TrainedPolicy:
    """Loads a checkpoint's policy and prints which checkpoint it is.

    Args:
        checkpoint: Folder or URI of a checkpoint, of a trial, or of a sweep, whose best trial is
            taken.
        num_envs: Number of envs that the policy will play at a time.
        module_id: Which policy of a multi-agent run; `ANY` if all of them play.

    Raises:
        ValueError: If there is no such checkpoint.
    """
    context = click.get_current_context(silent=True)
    if context:  # once more, because importing RLlib has set the levels of its loggers
        keep_quiet(context.meta.get(VERBOSE, 0))
    policy = load_policy(_best_trial(checkpoint), module_id)
    # A few vectors, or one image, are computed before other threads wake up.
    many = num_envs > 1 and num_pixels(policy.module.observation_space)
    torch.set_num_threads(available_cpus() if many else 1)
    print(f"checkpoint: {policy.checkpoint}")
    return policy


def _best_trial(path: str) -> str:
    """The best trial in the folder of a sweep; of anything else, its own path.

    Raises:
        ValueError: If the trials are on several environments.
    """
    trials = {trial.rpartition("/")[2]: trial for trial in newest_checkpoints(path)}
    if len(trials) < 2:
        return path
    best = best_trials(read_trials([*trials.values()]))
    (env, trial), *others = best.items()
    chosen = trials[trial.folder.rpartition("/")[2]]
    if others:
        raise ValueError(
            f"{path} has trials on {len(best)} environments, {', '.join(best)}: name a trial, as "
            f"in {chosen}, the best on {env}"
        )
    print(f"the best of {len(trials)} trials with checkpoints: {in_words(trial)}")
    return chosen


def play_config(
    policy: TrainedPolicy,
    *,
    env: str | None,
    env_config: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
) -> AlgorithmConfig:
    """Returns the policy's config with what the options change.

    Raises:
        ValueError: If there is no such setting, or it is the seed, which has its own option.
    """
    if "seed" in (config or {}):
        raise ValueError("set the seed of the episodes with --seed, not in --config")
    return policy.config_with(env=env, env_config=env_config, config=config)


def check_out(out: str) -> Path:
    """Returns the path of a file to write.

    Raises:
        ValueError: If its folder does not exist.
    """
    path = Path(out).expanduser()
    if not path.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {path.parent}")
    return path
