"""The checkpoint that the trials of a new run start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import tune
from ray.rllib.utils.annotations import override

from rllib_ppg.checkpoint.folder import resolve
from rllib_ppg.ray_private import start_from

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class StartFromCheckpoint(tune.Callback):
    """Lets every trial that has no checkpoint of its own start from the given one.

    Args:
        checkpoint: Absolute path or URI of the checkpoint.
    """

    def __init__(self, checkpoint: str) -> None:
        self._checkpoint = checkpoint

    @override(tune.Callback)
    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        filesystem, path = resolve(self._checkpoint)
        start_from(trial, path, filesystem)  # Tune looks right after this call
