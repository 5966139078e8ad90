"""The checkpoint that a new run's trials start from, in a folder or at a URI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import tune
from ray.rllib.utils.annotations import override
from ray.train._internal.session import _TrainingResult

from rllib_ppg.checkpoint.folder import resolve

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class StartFromCheckpoint(tune.Callback):
    """Lets every trial that has no checkpoint of its own start from the given one.

    `tune.run(restore=)` takes local folders only, and a Tuner has no such argument. An RLlib
    callback in the config would be saved with every later checkpoint and restore again from there.

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
        # What `tune.run(restore=)` sets. Tune reads it right after this call.
        trial._restore_checkpoint_result = _TrainingResult(tune.Checkpoint(path, filesystem), {})
        trial.invalidate_json_state()
