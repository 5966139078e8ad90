"""`config.yaml` and `command.txt`, which repeat a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.rllib.utils.annotations import override

from rllib_ppg._version import versions
from rllib_ppg.experiments.settings import ATTRIBUTES, setting_of

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from rllib_ppg.experiments.experiment import Experiment

_PACKAGES = ("ray", "torch", "gymnasium", "numpy")


class RunFiles(tune.Callback):
    """Writes both files into the experiment's folder, and each trial's into the trial's folder.

    `rllib train file` runs a `config.yaml` as it is. A Python experiment, whose config may hold
    more than data, is also copied as `experiment.py`.

    Args:
        experiment: Experiment that is run.
        argv: Command line.
        file: The experiment's file if it is Python; None otherwise.
    """

    def __init__(
        self, experiment: Experiment, argv: Sequence[str], file: Path | None = None
    ) -> None:
        self._experiment = experiment
        self._command = shlex.join(["rllib", *argv])
        # Read here: through a Ray client the callback runs on the head, which lacks the file.
        self._python = file.read_text() if file else None

    @property
    def experiment(self) -> Experiment:
        """The experiment that is run."""
        return self._experiment

    @override(tune.Callback)
    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self._write(Path(trial.local_experiment_path), self._experiment)
        trial.init_local_path()
        given = self._experiment.config
        search = self._experiment.parsed_search
        searched = search.space if search else ()
        # By the names that users give them.
        drawn = [next((k for k, a in ATTRIBUTES.items() if a == n), n) for n in searched]
        names = dict.fromkeys([*given, *drawn])
        # Without the callbacks that the command line added.
        config = {name: setting_of(trial.config, name, given.get(name)) for name in names}
        config |= {key: given[key] for key in ("callbacks", "callbacks_class") if key in given}
        experiment = replace(
            self._experiment,
            config=config,
            num_samples=1,
            scheduler=None,
            scheduler_config={},
            search={},
        )
        self._write(Path(trial.local_path), experiment)

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
            head.append(f"# not data, so here only as text: {', '.join(not_data)}{where}")
        (folder / "config.yaml").write_text("\n".join([*head, text]))
        (folder / "command.txt").write_text(f"{self._command}\n")
        if self._python:
            (folder / "experiment.py").write_text(self._python)
