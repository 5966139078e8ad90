"""A video of an episode after each evaluation, for `rllib train --wandb-videos`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics import EVALUATION_RESULTS

from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.evaluation.video import film

if TYPE_CHECKING:
    from rllib_ppg.ppg import PPG

VIDEO, NO_VIDEO = "video", "no_video"


class EvaluationVideos(RLlibCallback):
    """Films an episode of PPG's after each evaluation, with the evaluation's env and `explore`.

    The file is in `videos/` where the algorithm runs, and its path in the iteration's results, as
    `evaluation/video`. An env without pictures is no reason to end a run: what it lacks is then in
    the results, as `evaluation/no_video`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._outcome: dict[str, str] = {}

    def on_evaluate_end(self, *, algorithm: PPG, **kwargs: Any) -> None:
        """Is called after each evaluation."""
        folder = Path(algorithm.logdir, "videos")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"iteration_{algorithm.iteration + 1:06}.mp4"
        try:
            _film(algorithm, path)
            self._outcome = {VIDEO: str(path)}
        except ValueError as error:
            self._outcome = {NO_VIDEO: str(error)}

    def on_train_result(self, *, result: dict[str, Any], **kwargs: Any) -> None:
        """Is called with each iteration's result, before it is logged."""
        if self._outcome:
            result[EVALUATION_RESULTS].update(self._outcome)
            self._outcome = {}


def _film(algorithm: PPG, path: Path) -> None:
    config = algorithm.evaluation_config
    policy = TrainedPolicy("", algorithm.config, algorithm.get_module(), env_steps=None)
    with torch.random.fork_rng(devices=[]):  # the player seeds it, and the training goes on with it
        film(
            policy,
            config,
            path,
            episodes=1,
            seed=algorithm.iteration,
            explore=bool(config.explore),
        )
