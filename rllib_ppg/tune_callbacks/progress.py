"""Live progress of a run, readable in a terminal and in a log file."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.rllib.utils.annotations import override
from ray.tune.utils import flatten_dict
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rllib_ppg.callbacks import PPGCallback
from rllib_ppg.experiments.result_names import missing_results
from rllib_ppg.experiments.trial_names import settings_in_words
from rllib_ppg.tune_callbacks.progress_lines import ProgressLines

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.rllib.algorithms import Algorithm
    from ray.rllib.utils.typing import ModuleID
    from ray.tune.experiment import Trial

_REFRESH_S = 0.5
_LONGEST_NAME = 40  # of a trial before each of its lines


class Progress(tune.Callback):
    """Prints a line per iteration and, in a terminal, a live line about the current one below.

    With several trials there is no live line, and each line begins with the trial's name.

    Args:
        auxiliary: Whether the algorithm reports its auxiliary epochs by `AuxiliaryProgress`.
        show: Function that takes the lines; None prints them in this process.
        result_names: Names of results that settings other than `stop` refer to, and which setting
            each belongs to.
    """

    # Tune pickles its callbacks with the experiment, so `setup` makes what cannot be pickled.
    def __init__(
        self,
        auxiliary: bool = False,
        show: Callable[[str], object] | None = None,
        result_names: Mapping[str, str] | None = None,
    ) -> None:
        self._auxiliary = auxiliary
        self._result_names = dict(result_names or {})
        self._show = show

    @override(tune.Callback)
    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        self._single_trial = total_num_samples == 1
        self._mailbox = _start_mailbox() if self._auxiliary and self._single_trial else None
        here = self._show is None and self._single_trial
        self._live_line = _LiveLine(enabled=here and sys.stdout.isatty())
        self._lines: dict[str, ProgressLines] = {}
        self._last_event = self._last_refresh = time.monotonic()

    @override(tune.Callback)
    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        if not self._lines:
            folder = trial.path if self._single_trial else trial.storage.experiment_fs_path
            self._live_line.clear()
            self._say(f"results in {folder}; to watch them: tensorboard --logdir {folder}")
        if not self._single_trial and _name(trial) != trial.experiment_tag:
            self._print(trial, [settings_in_words(trial.evaluated_params or {})])
        self._lines[trial.trial_id] = ProgressLines(trial.stopping_criterion)
        self._last_event = time.monotonic()

    @override(tune.Callback)
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._receive_auxiliary_epochs(trial)
        if result["iterations_since_restore"] == 1:
            flat = flatten_dict(result, delimiter="/")
            there = {name for name, x in flat.items() if isinstance(x, Real)}
            names = {**self._result_names, **dict.fromkeys(trial.stopping_criterion, "--stop")}
            self._print(trial, missing_results(names.items(), there))
        self._print(trial, self._lines[trial.trial_id].update(result))
        self._last_event = time.monotonic()

    @override(tune.Callback)
    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        if not self._single_trial:
            self._print(trial, ["failed"])

    @override(tune.Callback)
    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if time.monotonic() - self._last_refresh < _REFRESH_S:
            return
        self._last_refresh = time.monotonic()
        for trial in trials:
            if self._single_trial and trial.trial_id in self._lines:
                self._receive_auxiliary_epochs(trial)
                seconds = time.monotonic() - self._last_event
                self._live_line.show(self._lines[trial.trial_id].now(seconds))

    @override(tune.Callback)
    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._live_line.clear()

    def _receive_auxiliary_epochs(self, trial: Trial) -> None:
        if self._mailbox is None:
            return
        try:
            epochs = ray.get(self._mailbox.take.remote())
        except RayActorError:  # these lines are worth less than the run
            return
        for epoch, num_epochs in epochs:
            line = self._lines[trial.trial_id].aux_epoch(epoch, num_epochs)
            if not self._live_line.enabled and epoch == 0:  # the phase may take hours
                self._print(trial, [line])

    def _print(self, trial: Trial, lines: Iterable[str]) -> None:
        prefix = "" if self._single_trial else f"[{_name(trial)}] "
        self._live_line.clear()
        for line in lines:
            self._say(prefix + line)

    def _say(self, line: str) -> None:
        if self._show:
            self._show(line)
        else:
            print(line, flush=True)


class AuxiliaryProgress(PPGCallback):
    """Reports auxiliary epochs to `Progress` from the algorithm's process.

    Checkpoints save it with the config, so it holds no handle. It does nothing where no `Progress`
    listens, for example after `Algorithm.from_checkpoint`.
    """

    @override(PPGCallback)
    def on_aux_epoch_end(
        self,
        *,
        algorithm: Algorithm,
        metrics_logger: Any,
        module_id: ModuleID,
        epoch: int,
        num_epochs: int,
    ) -> None:
        try:
            mailbox = ray.get_actor(_mailbox_name())
        except ValueError:  # there is none
            return
        mailbox.put.remote((epoch, num_epochs))


class _LiveLine:
    """The last line of a terminal, overwritten each time."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def show(self, text: str) -> None:
        if self.enabled:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", flush=True)

    def clear(self) -> None:
        self.show("")


def _name(trial: Trial) -> str:
    """Its number and settings; of many settings, only the number."""
    tag: str = trial.experiment_tag
    return tag if len(tag) <= _LONGEST_NAME else tag.partition("_")[0]


def _start_mailbox() -> ActorHandle:
    # Ray sends a local class by value, so that its process imports neither this package nor torch.
    class Mailbox:
        def __init__(self) -> None:
            self._events: list[tuple[int, int]] = []

        def put(self, event: tuple[int, int]) -> None:
            self._events.append(event)

        def take(self) -> list[tuple[int, int]]:
            events, self._events = self._events, []
            return events

    # On this node, which the run needs anyway, and not on one that may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox)
    return mailbox.options(name=_mailbox_name()).remote()


def _mailbox_name() -> str:
    return f"rllib_ppg_progress_{ray.get_runtime_context().get_job_id()}"
