"""Live progress of a run, readable in a terminal and in a log file."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.utils import flatten_dict

from rllib_ppg.callbacks import PPGCallback
from rllib_ppg.experiments.experiment import EPISODE_RETURN_MEAN
from rllib_ppg.tune_callbacks.time_left import RunClock

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.tune.experiment import Trial

    from rllib_ppg.ppg import PPG

_REFRESH_S = 0.5


class Progress(tune.Callback):
    """Prints a line per iteration and, in a terminal, below them what goes on right now.

    With several trials every line begins with the trial's, and there is no live one.

    Args:
        auxiliary: Whether the algorithm tells of its auxiliary phase, by `AuxiliaryProgress`.
        show: What takes the lines, if they are not to be printed here.
        result_names: Names of results that something goes by, beside `stop`, and what that is.
    """

    # Tune pickles its callbacks with the experiment, so what cannot be is made in `setup`.
    def __init__(
        self,
        auxiliary: bool = False,
        show: Callable[[str], object] | None = None,
        result_names: Mapping[str, str] | None = None,
    ) -> None:
        self._auxiliary = auxiliary
        self._result_names = dict(result_names or {})
        self._show = show or _say
        self._here = show is None

    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """Is called by Tune before the first trial starts."""
        self._alone = total_num_samples == 1
        self._mailbox = _open_mailbox() if self._auxiliary and self._alone else None
        self._live = _LiveLine(enabled=self._here and self._alone and sys.stdout.isatty())
        self._clocks: dict[str, RunClock] = {}
        self._last_event = self._last_refresh = time.monotonic()

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Is called by Tune when a trial's process starts."""
        self._clocks[trial.trial_id] = RunClock(trial.stopping_criterion)
        self._last_event = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Is called by Tune after every training iteration."""
        self._tell_auxiliary_epochs(trial)
        if result["iterations_since_restore"] == 1:
            flat = flatten_dict(result, delimiter="/")
            names = {**self._result_names, **dict.fromkeys(trial.stopping_criterion, "--stop")}
            self._print(trial, _doubtful_names(names, flat))
        self._print(trial, self._clocks[trial.trial_id].update(result))
        self._last_event = time.monotonic()

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Is called by Tune when a trial failed."""
        if not self._alone:
            self._print(trial, ["failed"])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Is called by Tune several times a second."""
        if time.monotonic() - self._last_refresh < _REFRESH_S:
            return
        self._last_refresh = time.monotonic()
        for trial in trials:
            if self._alone and trial.trial_id in self._clocks:
                self._tell_auxiliary_epochs(trial)
                seconds = time.monotonic() - self._last_event
                self._live.show(self._clocks[trial.trial_id].now(seconds))

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Is called by Tune after the last trial."""
        self._live.clear()

    def _tell_auxiliary_epochs(self, trial: Trial) -> None:
        if self._mailbox is None:
            return
        for epoch, num_epochs in ray.get(self._mailbox.take.remote()):
            words = self._clocks[trial.trial_id].aux_epoch(epoch, num_epochs)
            if not self._live.enabled:  # a log file has no live line to show them in
                self._print(trial, [words])

    def _print(self, trial: Trial, lines: Iterable[str]) -> None:
        prefix = "" if self._alone else f"[{trial.experiment_tag}] "
        self._live.clear()
        for line in lines:
            self._show(prefix + line)


class AuxiliaryProgress(PPGCallback):
    """Tells `Progress` of auxiliary epochs, from the process in which the algorithm runs.

    It is saved in checkpoints with the config, hence without a handle; where nobody listens, as
    after `Algorithm.from_checkpoint`, it does nothing.
    """

    def on_aux_epoch_end(
        self, *, algorithm: PPG, metrics_logger: Any, epoch: int, num_epochs: int
    ) -> None:
        """Is called after presleep and after each auxiliary epoch."""
        try:
            mailbox = ray.get_actor(_mailbox_name())
        except ValueError:  # there is none
            return
        mailbox.put.remote((epoch, num_epochs))


class _LiveLine:
    """The terminal's last line, written again and again."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def show(self, text: str) -> None:
        if self.enabled:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", flush=True)

    def clear(self) -> None:
        self.show("")


def _open_mailbox() -> ActorHandle:
    # A class made here travels to its process by value, which then imports neither this package nor
    # torch.
    class Mailbox:
        def __init__(self) -> None:
            self._events: list[tuple[int, int]] = []

        def put(self, event: tuple[int, int]) -> None:
            self._events.append(event)

        def take(self) -> list[tuple[int, int]]:
            events, self._events = self._events, []
            return events

    return ray.remote(num_cpus=0)(Mailbox).options(name=_mailbox_name()).remote()


def _mailbox_name() -> str:
    return f"rllib_ppg_progress_{ray.get_runtime_context().get_job_id()}"


def _doubtful_names(names: Mapping[str, str], result: Mapping[str, Any]) -> list[str]:
    """Returns a line for each name that looks mistyped; Tune ignores what it can't find."""
    lines = []
    for key, what in names.items():
        matches = get_close_matches(key, set(result) - {key}, n=1, cutoff=0.8)
        missing = key not in result or result[key] != result[key]
        may_come = key == EPISODE_RETURN_MEAN or key.startswith("evaluation/")
        if missing and not may_come and matches:
            lines.append(f"no result is called {key} so far; did {what} mean {matches[0]}?")
    return lines


def _say(line: str) -> None:
    """Prints a line. Ray replaces `print`, and one that was kept before can not be pickled then."""
    print(line, flush=True)
