"""`config.yaml` and `command.txt`, from which a run can be repeated."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from rllib_ppg._version import versions
from rllib_ppg.experiments.experiment import setting_of

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from rllib_ppg.experiments.experiment import Experiment

_PACKAGES = ("ray", "torch", "gymnasium", "numpy")


class RunFiles(tune.Callback):
    """Writes both into the experiment's folder, and into each trial's what makes up that trial.

    `rllib train file` takes a `config.yaml` as it is. A Python experiment, whose config may hold
    more than data, is copied beside it as `experiment.py`.

    Args:
        experiment: What is run.
        argv: The command line.
        file: The experiment's file if it is Python, else None.
    """

    def __init__(
        self, experiment: Experiment, argv: Sequence[str], file: Path | None = None
    ) -> None:
        self._experiment = experiment
        self._command = shlex.join(["rllib", *argv])
        # Over a Ray client connection this runs on the head, where the file is not.
        self._python = file.read_text() if file else None

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Is called by Tune when a trial's process starts."""
        self._write(Path(trial.local_experiment_path), self._experiment)
        trial.init_local_path()
        own = self._experiment.config
        # The command line's own callbacks are no part of the config.
        config = {key: setting_of(trial.config, key, own[key]) for key in own}
        config |= {key: own[key] for key in ("callbacks", "callbacks_class") if key in own}
        one = replace(
            self._experiment, config=config, num_samples=1, scheduler=None, scheduler_config={}
        )
        self._write(Path(trial.local_path), one)

    def _write(self, folder: Path, experiment: Experiment) -> None:
        head = [
            f"# {datetime.now().astimezone().isoformat(timespec='seconds')}, "
            + ", ".join(f"{name} {v}" for name, v in versions(*_PACKAGES).items())
        ]
        if experiment.restore:
            head.append(f"# started from {experiment.restore}")
        text, not_data = experiment.to_yaml()
        if not_data:
            where = " (see experiment.py)" if self._python else ""
            head.append(f"# not data, here as text only: {', '.join(not_data)}{where}")
        (folder / "config.yaml").write_text("\n".join([*head, text]))
        (folder / "command.txt").write_text(f"{self._command}\n")
        if self._python:
            (folder / "experiment.py").write_text(self._python)
