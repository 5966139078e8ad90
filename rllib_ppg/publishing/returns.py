"""What is known of an exported policy's returns: from its run's results, or played now."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pyarrow import fs

from rllib_ppg.checkpoint.folder import resolve
from rllib_ppg.evaluation.players import OnProgress
from rllib_ppg.evaluation.scores import Mean, columns, score
from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.plots.results import read_trials

SEED = 0  # of the episodes that are played
TRAINING_RUN = "training"


class Returns(NamedTuple):
    """The returns of some episodes.

    Attributes:
        of: Which episodes.
        mean: Their mean, with its standard error if it is known.
        normalized: The same of the normalised returns, for Procgen.
        episodes: How many.
        seed: The seed of training or evaluation; None if there was none.
        explore: Whether actions were sampled.
    """

    of: str
    mean: Mean
    normalized: Mean | None
    episodes: int
    seed: int | None
    explore: bool


def returns_of_training(policy: TrainedPolicy) -> list[Returns]:
    """The mean return in the results of the run when it saved the policy; none without results."""
    filesystem, root = resolve(policy.checkpoint)
    trial = root.rstrip("/").rpartition("/")[0]
    if filesystem.get_file_info(f"{trial}/result.json").type != fs.FileType.File:
        return []
    try:
        [results] = read_trials([trial], filesystem=filesystem)
    except ValueError:  # no episode ended
        return []
    known = results.returns[results.env_steps <= (policy.env_steps or 0)]
    if not len(known):
        return []
    last = policy.config.metrics_num_episodes_for_smoothing
    mean = Mean(float(known[-1]), None)
    seed = policy.config.seed
    return [Returns(TRAINING_RUN, mean, None, last, seed, policy.config.explore)]


def returns_of_evaluation(
    policy: TrainedPolicy, episodes: int, progress: Callable[[str], OnProgress]
) -> list[Returns]:
    """Plays episodes as `rllib evaluate` does: of Procgen, on training and held-out levels.

    Args:
        policy: The policy.
        episodes: Number of episodes, on each of them.
        progress: Makes what is called after each step, from the name of the episodes.

    Raises:
        ValueError: The env can't be made.
    """
    config = policy.config_with()
    found = []
    for name, of_column in columns(policy, config).items():
        means = score(
            policy,
            of_column,
            episodes=episodes,
            max_steps=None,
            seed=SEED,
            explore=config.explore,
            on_progress=progress(name),
        ).means
        normalized = means.get("normalized_return")
        of = "evaluation" if normalized is None else f"evaluation on {name}"
        found.append(Returns(of, means["return"], normalized, episodes, SEED, config.explore))
    return found
