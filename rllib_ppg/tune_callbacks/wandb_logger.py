"""Logs to Weights & Biases, for `rllib train --track` and for a Tuner's callbacks."""

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
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME as ENV_STEPS
from ray.tune.logger import LoggerCallback
from ray.tune.utils import flatten_dict

from rllib_ppg.evaluation.evaluation_videos import NO_VIDEO, VIDEO
from rllib_ppg.experiments.settings import as_data

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

DEFAULT_PROJECT = "rllib_ppg"


def _never_fails(method: Callable[..., None]) -> Callable[..., None]:
    """Makes an exception of W&B end the logging of the trial, not the trial."""

    @functools.wraps(method)
    def guarded(self: WandbLogger, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            trial = kwargs.get("trial") or next(a for a in args if hasattr(a, "trial_id"))
            self._runs.pop(trial, None)
            print(f"W&B: {_one_line(error)}; {trial} is no longer logged", flush=True)

    return guarded


class WandbLogger(LoggerCallback):
    """Logs each trial's results and whole config as a W&B run, with env steps as the x axis.

    Ray's own callback fails without a key, and its x axis is the training iteration. This one logs
    offline without a key or a network, into `wandb/` in the trial's folder. An exception of W&B
    ends the logging of its trial, never the run.

    Args:
        project: W&B project; None uses WANDB_PROJECT, or "rllib_ppg".
        group: W&B group of the trials' runs; None uses the experiment's name.
        mode: "online" or "offline"; None uses WANDB_MODE, or "online".
        upload_checkpoints: Whether to keep each checkpoint, with PPG's replay list, as a W&B
            artifact.
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
        self._locations: list[str] = []
        self._has_explained_no_video = False

    @override(LoggerCallback)
    def setup(self, **info: Any) -> None:
        with contextlib.suppress(Exception):
            wandb.setup(wandb.Settings(silent=True))  # this callback prints what matters
        why_offline = _why_offline() if self._mode == "online" else ""
        if why_offline:
            self._mode = "offline"
            print(f"W&B: {why_offline}; logging offline", flush=True)

    @override(LoggerCallback)
    @_never_fails
    def log_trial_start(self, trial: Trial) -> None:
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
            resume="allow",  # a resumed trial continues its W&B run
            reinit="create_new",
            mode=self._mode,
            dir=folder,
            settings=wandb.Settings(console="off"),
        )
        run.define_metric(ENV_STEPS)
        run.define_metric("*", step_metric=ENV_STEPS)
        self._runs[trial] = run
        if self._mode == "offline":
            run_folder = shlex.quote(str(Path(run.dir).parent))
            self._locations.append(f"`wandb sync {run_folder}` uploads it")
        elif run.url:
            self._locations.append(run.url)

    @override(LoggerCallback)
    @_never_fails
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        run = self._runs.get(trial)
        if run is None:
            return
        # With each result, because PBT changes the config.
        config = {k: v for k, v in result.get("config", {}).items() if "callbacks" not in k}
        run.config.update(as_data(config), allow_val_change=True)
        flat = flatten_dict({k: v for k, v in result.items() if k != "config"}, delimiter="/")
        row = {key: value for key, value in flat.items() if _is_number(value)}
        video = flat.get(f"evaluation/{VIDEO}")
        if video and Path(video).is_file():  # False if the trial runs on another node
            row[f"evaluation/{VIDEO}"] = wandb.Video(video, format="mp4")
        no_video = flat.get(f"evaluation/{NO_VIDEO}")
        if no_video and not self._has_explained_no_video:
            self._has_explained_no_video = True
            print(f"W&B: there are no videos: {no_video}", flush=True)
        run.log(row)

    @override(LoggerCallback)
    @_never_fails
    def log_trial_save(self, trial: Trial) -> None:
        run = self._runs.get(trial)
        if run is None or not self._upload_checkpoints or trial.checkpoint is None:
            return
        artifact = wandb.Artifact(f"checkpoint_{trial.trial_id}", type="model")
        with trial.checkpoint.as_directory() as folder:
            artifact.add_dir(folder)
        run.log_artifact(artifact)

    @override(LoggerCallback)
    @_never_fails
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        run = self._runs.pop(trial, None)
        if run is not None:
            run.finish(exit_code=int(failed))

    @override(LoggerCallback)
    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        for trial in list(self._runs):  # still open if the experiment was interrupted
            self.log_trial_end(trial)
        for location in self._locations:
            print(f"W&B: {location}", flush=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not (isinstance(value, float) and math.isnan(value))


def _why_offline() -> str:
    """Why W&B cannot be reached, in a few words; "" if it can."""
    try:
        return "" if wandb.login(prompt=False) else "there is no key (`wandb login` stores one)"
    except Exception as error:  # several libraries raise: no network, a wrong key
        return _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
