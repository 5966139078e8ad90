"""Ctrl-C and SIGTERM save before they end a run."""

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

from rllib_ppg.cli import exit_code

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

# Kubernetes, SLURM and ECS kill 30 s after SIGTERM, and a run needs a few of them to end.
GRACE_S = 25.0
_ENDING_S = 5.0


class SaveOnInterrupt(tune.Callback):
    """On Ctrl-C or SIGTERM, lets running trials finish their iteration and save.

    Tune by itself ends trials at once, and what they learnt since their last checkpoint is lost. A
    second signal does so, too, and so does the end of the grace time after SIGTERM.

    Args:
        grace_s: How many seconds after SIGTERM to wait for checkpoints.
        to_resume: Makes, of the experiment's folder, the command that goes on.

    Attributes:
        signum: The signal that ended the run, if one did.
    """

    def __init__(
        self, grace_s: float = GRACE_S, to_resume: Callable[[str], str] | None = None
    ) -> None:
        self._grace_s = grace_s
        self._to_resume = to_resume
        self.signum: int | None = None

    def setup(self, **info: Any) -> None:
        """Is called by Tune before the first trial starts, and after it has set its own handler."""
        self._told = self._again = self._ended = False
        self._deadline = math.inf
        self._command = ""
        self._saved: set[str] = set()
        self._end_now = signal.getsignal(signal.SIGINT)
        self._before = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            for one in (signal.SIGINT, signal.SIGTERM):
                signal.signal(one, self._on_signal)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Is called by Tune after every training iteration."""
        if self.signum is not None:
            result["should_checkpoint"] = True

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Any, **info: Any
    ) -> None:
        """Is called by Tune when a trial has saved."""
        if self.signum is not None:
            self._saved.add(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Is called by Tune several times a second."""
        if self.signum is None or self._ended:
            return
        if not self._told:  # not by the handler, which may have interrupted a print
            self._told = True
            if self._to_resume and trials:
                self._command = self._to_resume(trials[0].experiment_dir_name)
            print(f"\n{self._announcement()}", flush=True)
        unsaved = [
            trial
            for trial in trials
            if trial.status == "RUNNING" and trial.trial_id not in self._saved
        ]
        is_late = time.monotonic() >= self._deadline
        if unsaved and not self._again and not is_late:
            return
        if unsaved and is_late:
            print(f"no checkpoint within {self._grace_s:g} s: the run ends without", flush=True)
        for trial in unsaved:
            print(_where_it_goes_on(trial), flush=True)
            if trial.temporary_state.ray_actor is not None:  # Tune would wait for its iteration
                ray.kill(trial.temporary_state.ray_actor)
        self._ended = True
        assert callable(self._end_now)
        self._end_now(signal.SIGINT, None)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Is called by Tune after the last trial."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)

    def _announcement(self) -> str:
        if self.signum == signal.SIGTERM:
            return (
                "stopping on SIGTERM: a checkpoint is saved when this iteration ends, if that is "
                f"within {self._grace_s:g} s; a second signal ends the run without"
            )
        return (
            "stopping: a checkpoint is saved when this iteration ends; Ctrl-C again ends the run "
            "without"
        )

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            self._again = True
            self._end_in(_ENDING_S)
            return
        self.signum = signum
        if signum == signal.SIGTERM:
            self._deadline = time.monotonic() + self._grace_s
            self._end_in(self._grace_s + _ENDING_S)

    def _end_in(self, seconds: float) -> None:
        """Sees to it that the process is gone by then, whatever it waits for."""
        timer = threading.Timer(seconds, self._exit)
        timer.daemon = True
        timer.start()

    def _exit(self) -> NoReturn:
        words = f"to resume: {self._command}\n" if self._command else ""
        os.write(sys.stdout.fileno(), f"\nended without waiting any longer\n{words}".encode())
        code = exit_code.TERMINATED if self.signum == signal.SIGTERM else exit_code.INTERRUPTED
        os._exit(code)  # Ray's processes on this machine end with this one


def exit_on_sigterm() -> None:
    """Has SIGTERM end the command in order as long as nothing is trained; Ray's code is 15."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(exit_code.TERMINATED))


def _where_it_goes_on(trial: Trial) -> str:
    last = trial.latest_checkpoint_result
    if last is None:
        return f"{trial}: nothing was saved, it would begin anew"
    after = last.metrics.get("training_iteration")
    when = f", of iteration {after}" if after else ""
    return f"{trial}: it goes on from {PurePath(last.checkpoint.path).name}{when}"
