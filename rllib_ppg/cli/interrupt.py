"""Ctrl-C saves before it ends a run."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from ray import tune

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class SaveOnInterrupt(tune.Callback):
    """On Ctrl-C, lets running trials finish their iteration and save; a second one ends them.

    Tune by itself ends trials at once, and what they learnt since their last checkpoint is lost.
    """

    def setup(self, **info: Any) -> None:
        """Is called by Tune before the first trial starts, and after it has set its own handler."""
        self._asked = self._told = False
        self._saved: set[str] = set()
        self._end_now = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_interrupt)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Is called by Tune after every training iteration."""
        if self._asked:
            result["should_checkpoint"] = True

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Any, **info: Any
    ) -> None:
        """Is called by Tune when a trial has saved."""
        if self._asked:
            self._saved.add(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Is called by Tune several times a second."""
        if not self._asked:
            return
        if not self._told:  # not by the handler, which may have interrupted a print
            self._told = True
            print(
                "\nstopping: a checkpoint is saved when this iteration ends; Ctrl-C again ends the "
                "run without",
                flush=True,
            )
        if all(trial.trial_id in self._saved for trial in trials if trial.status == "RUNNING"):
            self._end()

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self._asked:
            self._end()
        self._asked = True

    def _end(self) -> None:
        assert callable(self._end_now)
        self._end_now(signal.SIGINT, None)
