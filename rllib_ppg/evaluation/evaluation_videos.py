"""Records an episode after each evaluation, for `rllib train --wandb-videos`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import EVALUATION_RESULTS

from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.evaluation.video import film

if TYPE_CHECKING:
    from rllib_ppg.ppg import PPG

logger = logging.getLogger(__name__)

VIDEO, NO_VIDEO = "video", "no_video"

# An episode may never end. The longest of the usual ones are Atari's, of half an hour.
_MAX_STEPS = 27_000


class EvaluationVideos(RLlibCallback):
    """Records an episode after each evaluation, with its env and its `explore` setting.

    The file is in `videos/` in the folder of the trial, and the results have its path under
    `evaluation/video`. If filming fails, for example because the env has no pictures, the run
    continues, and the results have the reason under `evaluation/no_video`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._outcome: dict[str, str] = {}

    @override(RLlibCallback)
    def on_evaluate_end(self, *, algorithm: PPG, **kwargs: Any) -> None:
        path = Path(algorithm.logdir, "videos", f"iteration_{algorithm.iteration + 1:06}.mp4")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _film(algorithm, path)
            self._outcome = {VIDEO: str(path)}
        except ValueError as error:
            self._outcome = {NO_VIDEO: str(error)}
        except Exception as error:  # of the env, or of a package that draws
            logger.warning("There is no video of this evaluation.", exc_info=True)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._outcome = {NO_VIDEO: reason}

    @override(RLlibCallback)
    def on_train_result(self, *, result: dict[str, Any], **kwargs: Any) -> None:
        if self._outcome:
            result[EVALUATION_RESULTS].update(self._outcome)
            self._outcome = {}


def _film(algorithm: PPG, path: Path) -> None:
    config = algorithm.evaluation_config
    policy = TrainedPolicy("", algorithm.config, algorithm.get_module(), env_steps=None)
    with torch.random.fork_rng(devices=[]):  # the player seeds it
        film(
            policy,
            config,
            path,
            episodes=1,
            max_steps=_MAX_STEPS,
            seed=algorithm.iteration,
            explore=bool(config.explore),
        )
