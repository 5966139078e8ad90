"""Callbacks: progress within an auxiliary phase, and Procgen's metrics among the results."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    EVALUATION_RESULTS,
)
from ray.tune.utils import unflattened_lookup

from rllib_ppg.envs.procgen_levels import normalized, procgen_game, which_levels

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


NORMALIZED_RETURN_MEAN = "normalized_return_mean"
GENERALIZATION_GAP = "generalization_gap"


def promote_metric(name: str) -> type[RLlibCallback]:
    """A callback that repeats a nested result, "env_runners/x" say, under its whole name.

    Tune orders checkpoints by results of the top level alone, and goes by their age, without a
    word, if the name is none of these. Where there is no such result, it is NaN, the lowest score.
    """

    class PromoteMetric(RLlibCallback):
        def on_train_result(self, *, result: dict[str, Any], **kwargs: Any) -> None:
            result[name] = unflattened_lookup(name, result, default=math.nan)

    return PromoteMetric


class PPGCallback(RLlibCallback):
    """An `RLlibCallback` that hears of auxiliary epochs, too. Use it with `.callbacks(...)`."""

    def on_aux_epoch_end(
        self, *, algorithm: Algorithm, metrics_logger: Any, epoch: int, num_epochs: int
    ) -> None:
        """Called after each auxiliary epoch.

        Args:
            algorithm: the PPG that trains.
            metrics_logger: its metrics; what is logged here is in the iteration's results.
            epoch: epochs done of this auxiliary phase; 0 when it begins, after pi_old is computed.
            num_epochs: E_aux.
        """


class ProcgenMetrics(RLlibCallback):
    """Adds to the results of any algorithm what is compared on Procgen; leaves other envs alone.

    - `env_runners/normalized_return_mean`: the mean return, scaled so that 0 is a trivial policy's
      and 1 about the best possible, for modes with published ranges (easy and hard).
    - `evaluation/env_runners/normalized_return_mean`: the same of an evaluation.
    - `evaluation/generalization_gap`: training's minus evaluation's, if it is of the same game and
      mode on other levels, as with `.evaluation(evaluation_config={"env_config": {"num_levels":
      0, ...}})`. It is of normalized returns, or of returns in a mode without ranges.

    Use it with `.callbacks(ProcgenMetrics)`.
    """

    def on_train_result(
        self, *, algorithm: Algorithm, result: dict[str, Any], **kwargs: Any
    ) -> None:
        """Called with each iteration's result, before it is logged."""
        trained = _add_normalized(result, algorithm.config)
        evaluation, config = result.get(EVALUATION_RESULTS), algorithm.evaluation_config
        if not evaluation or config is None:
            return
        evaluated = _add_normalized(evaluation, config)
        if trained is None or evaluated is None or config.env != algorithm.config.env:
            return
        of_training, of_evaluation = map(
            which_levels, (algorithm.config.env_config, config.env_config)
        )
        if of_training[0] == of_evaluation[0] and of_training != of_evaluation:
            evaluation[GENERALIZATION_GAP] = trained - evaluated


def _add_normalized(result: dict[str, Any], config: AlgorithmConfig) -> float | None:
    """Adds the normalised mean return to the env runners' results, and returns it.

    In a mode without ranges nothing is added, and the mean return is returned; None if there is
    none, or the env is not Procgen.
    """
    of_env_runners = result.get(ENV_RUNNER_RESULTS, {})
    mean = of_env_runners.get(EPISODE_RETURN_MEAN, math.nan)
    if procgen_game(config.env) is None or math.isnan(mean):
        return None
    scaled = normalized(config.env, config.env_config, float(mean))
    if scaled is None:
        return float(mean)
    of_env_runners[NORMALIZED_RETURN_MEAN] = scaled
    return scaled
