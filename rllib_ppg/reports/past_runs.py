"""The runs next to those of a report, with their scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from rllib_ppg.experiments.run_folder import runs_in
from rllib_ppg.plots.final_table import in_short, mean_and_spread
from rllib_ppg.plots.folder import Folder, distinct
from rllib_ppg.plots.results import Trial, read_trials
from rllib_ppg.reports.legend import Redact, legend

MAX_RUNS = 100


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        text: What it shows.
        key: What rows are sorted by.
    """

    text: str
    key: float | str


@dataclass(frozen=True)
class PastRuns:
    """A table of runs, the newest first.

    Attributes:
        rows: A row for each setting of a run, with the cells of `HEAD`.
        left_out: How many older runs there are.
    """

    HEAD = ("run", "started", "environment", "algorithm", "seeds", "env steps", "final return")

    rows: Sequence[Sequence[Cell]]
    left_out: int


def past_runs(trials: Sequence[Trial], redact: Redact) -> PastRuns:
    """Reads the runs in the storage folders of trials, and these themselves.

    What is next to them and was not started by Tune is not looked into.

    Args:
        trials: Trials of a report.
        redact: Returns a text without secrets.
    """
    shown = distinct(trial.files.parent for trial in trials)
    others = [
        Folder(storage.filesystem, f"{storage.path}/{name}")
        for storage in distinct(run.parent for run in shown)
        for name in runs_in(storage.path, storage.filesystem)
    ]
    newest = sorted(distinct([*shown, *others]), key=lambda folder: folder.modified(), reverse=True)
    rows = [row for run in newest[:MAX_RUNS] for row in _rows(run, _trials(run, trials), redact)]
    rows.sort(key=lambda row: row[1].key, reverse=True)
    return PastRuns(rows, len(newest[MAX_RUNS:]))


def _trials(run: Folder, shown: Sequence[Trial]) -> list[Trial]:
    """The trials of a run that have returns; those of a report need not be read again."""
    known = [trial for trial in shown if trial.files.parent == run]
    if {trial.folder for trial in known} == {folder.path for folder in run.subfolders()}:
        return [trial for trial in known if len(trial.curve.returns)]
    try:
        return read_trials([run.path], filesystem=run.filesystem)
    except ValueError:  # it has no results or no returns yet
        return []


def _rows(folder: Folder, trials: Sequence[Trial], redact: Redact) -> Iterator[Sequence[Cell]]:
    for entry in legend(trials, redact):
        finals = np.array([trial.curve.final() for trial in entry.trials])
        steps = max(trial.env_steps[-1] for trial in entry.trials)
        started = min(trial.started for trial in entry.trials)
        yield (
            _words(folder.name),
            Cell(when(started), started),
            _words(", ".join(dict.fromkeys(trial.env for trial in entry.trials))),
            _words(entry.name),
            _words(entry.seeds() or f"{len(finals)} drawn"),
            Cell(in_short(steps), steps),
            Cell(mean_and_spread(finals).replace("+-", "±"), float(finals.mean())),
        )


def when(seconds: float) -> str:
    """Returns a time in seconds since 1970 as a date here; "" if it is unknown."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}" if math.isfinite(seconds) else ""


def _words(text: str) -> Cell:
    return Cell(text, text)
