"""RLlib callbacks: progress within an auxiliary phase, Procgen's metrics, nested results."""

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
    from ray.rllib.utils.typing import ModuleID

NORMALIZED_RETURN_MEAN = "normalized_return_mean"
GENERALIZATION_GAP = "generalization_gap"


def promote_metric(name: str) -> type[RLlibCallback]:
    """A callback that copies a nested result, such as "env_runners/x", to the top level.

    Tune only ranks checkpoints by top-level results; for any other name it silently ranks them by
    age. A missing result becomes NaN, which is the lowest score.
    """

    class PromoteMetric(RLlibCallback):
        def on_train_result(self, *, result: dict[str, Any], **kwargs: Any) -> None:
            result[name] = unflattened_lookup(name, result, default=math.nan)

    return PromoteMetric


class PPGCallback(RLlibCallback):
    """An `RLlibCallback` with a hook for auxiliary epochs. Use it with `.callbacks(...)`."""

    def on_aux_epoch_end(
        self,
        *,
        algorithm: Algorithm,
        metrics_logger: Any,
        module_id: ModuleID,
        epoch: int,
        num_epochs: int,
    ) -> None:
        """Called after each auxiliary epoch.

        Args:
            algorithm: The PPG algorithm.
            metrics_logger: Its metrics logger; what you log here is in the iteration's results.
            module_id: The module whose phase it is.
            epoch: Number of epochs done in this auxiliary phase. 0 is the start of the phase, after
                pi_old has been computed.
            num_epochs: E_aux, the number of epochs of the phase.
        """


class ProcgenMetrics(RLlibCallback):
    """Adds Procgen's metrics to the results of any algorithm; other envs are left alone.

    - `env_runners/normalized_return_mean`: Mean return, scaled so that 0 is the return of a trivial
      policy and 1 about the best possible. Only for modes with published ranges (easy and hard).
    - `evaluation/env_runners/normalized_return_mean`: The same for the evaluation.
    - `evaluation/generalization_gap`: Training's mean minus the evaluation's, if the evaluation is
      in the same game and mode on other levels, as with `.evaluation(evaluation_config={
      "env_config": {"num_levels": 0, ...}})`. It compares normalized returns, or plain returns in
      a mode without ranges.

    Use it with `.callbacks(ProcgenMetrics)`.
    """

    def on_train_result(
        self, *, algorithm: Algorithm, result: dict[str, Any], **kwargs: Any
    ) -> None:
        """Adds the metrics to an iteration's result."""
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
    """Adds the normalised mean return to the env runners' results and returns it.

    In a mode without ranges it adds nothing and returns the plain mean. It returns None without a
    mean, and for envs other than Procgen.
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
