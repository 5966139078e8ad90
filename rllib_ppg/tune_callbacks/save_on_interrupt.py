"""Saves a run before Ctrl-C or SIGTERM ends it."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import ray
from ray import tune
from ray.rllib.utils.annotations import override

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

# Kubernetes, SLURM and ECS kill 30 s after SIGTERM; the run needs a few of them to end.
GRACE_S = 25.0
_ENDING_S = 5.0


class SaveOnInterrupt(tune.Callback):
    """Lets running trials finish their iteration and save on Ctrl-C or SIGTERM.

    Tune would end them at once and lose what they learned since their last checkpoint. That is
    what a second signal does, and the end of the grace time after SIGTERM.

    Args:
        grace_s: Seconds to wait for checkpoints after SIGTERM.
        to_resume: Function from the name of the experiment's folder to the command that resumes it.

    Attributes:
        signum: Signal that ended the run; None if none did.
    """

    def __init__(
        self, grace_s: float = GRACE_S, to_resume: Callable[[str], str] | None = None
    ) -> None:
        self._grace_s = grace_s
        self._to_resume = to_resume
        self.signum: int | None = None

    @override(tune.Callback)
    def setup(self, **info: Any) -> None:
        self._announced = self._second_signal = self._ended = False
        self._deadline = math.inf
        self._command = ""
        self._saved: set[str] = set()
        # Tune has already set its own handler of SIGINT, which ends the run.
        self._tune_handler = signal.getsignal(signal.SIGINT)
        self._previous_sigterm_handler = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, self._on_signal)

    @override(tune.Callback)
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if self.signum is not None:
            result["should_checkpoint"] = True

    @override(tune.Callback)
    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Any, **info: Any
    ) -> None:
        if self.signum is not None:
            self._saved.add(trial.trial_id)

    @override(tune.Callback)
    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self.signum is None or self._ended:
            return
        if not self._announced:  # here, since the signal may have interrupted another print
            self._announced = True
            if self._to_resume and trials:
                self._command = self._to_resume(trials[0].experiment_dir_name)
            print(f"\n{self._announcement()}", flush=True)
        unsaved = [
            trial
            for trial in trials
            if trial.status == "RUNNING" and trial.trial_id not in self._saved
        ]
        is_late = time.monotonic() >= self._deadline
        if unsaved and not self._second_signal and not is_late:
            return
        if unsaved and is_late:
            print(f"no checkpoint within {self._grace_s:g} s: ending without one", flush=True)
        for trial in unsaved:
            print(_resume_point(trial), flush=True)
            if trial.temporary_state.ray_actor is not None:  # Tune would wait for its iteration
                ray.kill(trial.temporary_state.ray_actor)
        self._ended = True
        assert callable(self._tune_handler)
        self._tune_handler(signal.SIGINT, None)

    @override(tune.Callback)
    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._previous_sigterm_handler)

    def _announcement(self) -> str:
        if self.signum == signal.SIGTERM:
            return (
                "stopping on SIGTERM: a checkpoint is saved when this iteration ends, if that is "
                f"within {self._grace_s:g} s; a second signal ends the run without it"
            )
        return (
            "stopping: a checkpoint is saved when this iteration ends; press Ctrl-C again to end "
            "the run without it"
        )

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            self._second_signal = True
            self._end_in(_ENDING_S)
            return
        self.signum = signum
        if signum == signal.SIGTERM:
            self._deadline = time.monotonic() + self._grace_s
            self._end_in(self._grace_s + _ENDING_S)

    def _end_in(self, seconds: float) -> None:
        """Ends the process after that time, whatever it is waiting for."""
        timer = threading.Timer(seconds, self._exit)
        timer.daemon = True
        timer.start()

    def _exit(self) -> NoReturn:
        assert self.signum is not None
        command = f"to resume: {self._command}\n" if self._command else ""
        os.write(sys.stdout.fileno(), f"\nended without waiting any longer\n{command}".encode())
        os._exit(128 + self.signum)  # Ray's processes on this machine end with this one


def exit_on_sigterm() -> None:
    """Makes SIGTERM end the process with exit code 143 while nothing trains; Ray's code is 15."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))


def _resume_point(trial: Trial) -> str:
    latest = trial.latest_checkpoint_result
    if latest is None:
        return f"{trial}: nothing was saved, so it would start from the beginning"
    iteration = latest.metrics.get("training_iteration")
    after = f", of iteration {iteration}" if iteration else ""
    return f"{trial}: it would resume from {PurePath(latest.checkpoint.path).name}{after}"
