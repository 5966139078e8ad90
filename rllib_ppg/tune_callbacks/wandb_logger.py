"""Weights & Biases, for `rllib train --track` and for a Tuner's callbacks."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shlex
from collections.abc import Callable
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import wandb
from pyarrow.fs import LocalFileSystem
from ray.tune.logger import LoggerCallback
from ray.tune.utils import flatten_dict

from rllib_ppg.evaluation.evaluation_videos import NO_VIDEO, VIDEO
from rllib_ppg.experiments.experiment import as_data

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

ENV_STEPS = "num_env_steps_sampled_lifetime"
DEFAULT_PROJECT = "rllib_ppg"


def _never_fails(method: Callable[..., None]) -> Callable[..., None]:
    """Ends the logging of a trial, and not the trial, if W&B raises anything."""

    @functools.wraps(method)
    def guarded(self: WandbLogger, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            trial = kwargs.get("trial") or next(a for a in args if hasattr(a, "trial_id"))
            self._runs.pop(trial, None)
            print(f"W&B: {_one_line(error)}; {trial} is not logged there any more", flush=True)

    return guarded


class WandbLogger(LoggerCallback):
    """Results and the whole config of each trial as a W&B run, with env steps as the x axis.

    Unlike Ray's own callback it needs neither a key nor a network: without them the run goes on,
    and its data are kept on disk, in `wandb/` below the trial's folder. Whatever W&B may raise ends
    the logging of that trial, and never the run.

    Args:
        project: of W&B; None: what WANDB_PROJECT says, or "rllib_ppg".
        group: that the trials' runs are shown in; None: the experiment's name.
        mode: "online" or "offline"; None: what WANDB_MODE says, or online.
        upload_checkpoints: keep each checkpoint as a W&B artifact, too. PPG's hold the replay list.
    """

    def __init__(
        self,
        project: str | None = None,
        group: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        upload_checkpoints: bool = False,
    ) -> None:
        self._project = project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
        self._group = group
        self._mode: Any = mode or os.environ.get("WANDB_MODE") or "online"
        self._upload_checkpoints = upload_checkpoints
        self._runs: dict[Trial, wandb.Run] = {}
        self._places: list[str] = []
        self._told = False  # that there are no videos

    def setup(self, **info: Any) -> None:
        """Is called by Tune before the first trial starts; goes offline if that is all there is."""
        with contextlib.suppress(Exception):
            wandb.setup(wandb.Settings(silent=True))  # this callback says what there is to say
        why_not = _unreachable() if self._mode == "online" else ""
        if why_not:
            self._mode = "offline"
            print(f"W&B: {why_not}; logging offline, the run goes on", flush=True)

    @_never_fails
    def log_trial_start(self, trial: Trial) -> None:
        """Opens the trial's W&B run; a trial that is resumed goes on in its old one."""
        if trial in self._runs:
            return
        local = isinstance(trial.storage.storage_filesystem, LocalFileSystem)
        folder = Path((trial.path if local else None) or trial.local_path)
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self._project,
            group=self._group or trial.experiment_dir_name,
            id=trial.trial_id,
            name=str(trial),
            resume="allow",
            reinit="create_new",
            mode=self._mode,
            dir=folder,
            settings=wandb.Settings(console="off"),
        )
        run.define_metric(ENV_STEPS)
        run.define_metric("*", step_metric=ENV_STEPS)
        self._runs[trial] = run
        if self._mode == "offline":
            folder_of_run = shlex.quote(str(Path(run.dir).parent))
            self._places.append(f"`wandb sync {folder_of_run}` uploads it")
        elif run.url:
            self._places.append(run.url)

    @_never_fails
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Logs the iteration's numbers; the config at each, as PBT changes it."""
        run = self._runs.get(trial)
        if run is None:
            return
        config = {k: v for k, v in result.get("config", {}).items() if "callbacks" not in k}
        run.config.update(as_data(config), allow_val_change=True)
        flat = flatten_dict({k: v for k, v in result.items() if k != "config"}, delimiter="/")
        row = {key: value for key, value in flat.items() if _is_number(value)}
        video = flat.get(f"evaluation/{VIDEO}")
        if video and Path(video).is_file():  # it is not if the trial runs on another node
            row[f"evaluation/{VIDEO}"] = wandb.Video(video, format="mp4")
        why_not = flat.get(f"evaluation/{NO_VIDEO}")
        if why_not and not self._told:
            self._told = True
            print(f"W&B: there are no videos: {why_not}", flush=True)
        run.log(row)

    @_never_fails
    def log_trial_save(self, trial: Trial) -> None:
        """Uploads the trial's newest checkpoint, if that is asked for."""
        run = self._runs.get(trial)
        if run is None or not self._upload_checkpoints or trial.checkpoint is None:
            return
        artifact = wandb.Artifact(f"checkpoint_{trial.trial_id}", type="model")
        with trial.checkpoint.as_directory() as folder:
            artifact.add_dir(folder)
        run.log_artifact(artifact)

    @_never_fails
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Closes the trial's W&B run."""
        run = self._runs.pop(trial, None)
        if run is not None:
            run.finish(exit_code=int(failed))

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Is called by Tune after the last trial; says where the data are."""
        for trial in list(self._runs):  # of a run that was interrupted
            self.log_trial_end(trial)
        for place in self._places:
            print(f"W&B: {place}", flush=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not (isinstance(value, float) and math.isnan(value))


def _unreachable() -> str:
    """Why W&B can't be logged to, in a few words; "" if it can."""
    try:
        return "" if wandb.login(prompt=False) else "there is no key (`wandb login` stores one)"
    except Exception as error:  # of several libraries below: no network, a wrong key
        return _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
