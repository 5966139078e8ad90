"""Saves a run before Ctrl-C, SIGTERM, a closed terminal or a closed pipe ends it."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePath
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import ray
from ray import tune
from ray.rllib.utils.annotations import override

from rllib_ppg.resources.ray_processes import kill_ray_processes

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

# Kubernetes, SLURM and ECS kill 30 s after SIGTERM; the run needs a few of them to end.
GRACE_S = 25.0
_ENDING_S = 5.0

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The others may come twice, from a terminal and from its shell.
_ORDERS = (signal.SIGINT, signal.SIGTERM)


class SaveOnInterrupt(tune.Callback):
    """Lets running trials finish their iteration and save before a signal ends the run.

    Tune would end them at once and lose what they learned since their last checkpoint. That is
    what a second Ctrl-C or SIGTERM does, and the end of the grace time after SIGTERM.
    The signals are SIGINT, SIGTERM and SIGHUP; what handles SIGTERM may be called for SIGPIPE, too.

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
        self._announced = self._ordered = self._second_order = self._ended = False
        self._deadline = math.inf
        self._command = ""
        self._saved: set[str] = set()
        # Tune has already set its own handler of SIGINT, which ends the run.
        self._tune_handler = signal.getsignal(signal.SIGINT)
        self._previous_handlers = {signum: signal.getsignal(signum) for signum in _HANDLED[1:]}
        if threading.current_thread() is threading.main_thread():
            for signum in _HANDLED:
                if signal.getsignal(signum) is not signal.SIG_IGN:  # as nohup ignores SIGHUP
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
        if unsaved and not self._second_order and not is_late:
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
            for signum, handler in self._previous_handlers.items():
                signal.signal(signum, handler)

    def _announcement(self) -> str:
        if self.signum == signal.SIGTERM:
            return (
                "stopping on SIGTERM: a checkpoint is saved when this iteration ends, if that is "
                f"within {self._grace_s:g} s; a second signal ends the run without it"
            )
        saved = "a checkpoint is saved when this iteration ends"
        if self.signum == signal.SIGINT:
            return f"stopping: {saved}; press Ctrl-C again to end the run without it"
        what = "pipe" if self.signum == signal.SIGPIPE else "terminal"
        return f"stopping, as the {what} was closed: {saved}"

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
        if signum not in _ORDERS:
            return
        if self._ordered:
            self._second_order = True
            self._end_in(_ENDING_S)
            return
        self._ordered = True
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
        with suppress(OSError):  # there may be no terminal any more
            os.write(sys.stdout.fileno(), f"\nended without waiting any longer\n{command}".encode())
        kill_ray_processes()
        os._exit(128 + self.signum)


def _resume_point(trial: Trial) -> str:
    latest = trial.latest_checkpoint_result
    if latest is None:
        return f"{trial}: nothing was saved, so it would start from the beginning"
    iteration = latest.metrics.get("training_iteration")
    after = f", of iteration {iteration}" if iteration else ""
    return f"{trial}: it would resume from {PurePath(latest.checkpoint.path).name}{after}"
