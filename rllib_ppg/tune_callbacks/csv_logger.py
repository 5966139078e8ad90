"""`progress.csv` with all of a run's results."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.rllib.utils.annotations import override
from ray.tune.logger import CSVLoggerCallback
from ray.tune.result import EXPR_PROGRESS_FILE
from ray.tune.utils import flatten_dict

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class CSVLogger(CSVLoggerCallback):
    """Tune's CSV logger, but with a column for every result.

    Tune keeps the columns of the first iteration, before any auxiliary phase or evaluation. This
    logger rewrites the file when it needs a new column, and leaves a cell empty where an iteration
    has no such result. Given to Tune as a callback, it replaces Tune's own logger.
    """

    def __init__(self) -> None:
        super().__init__()
        self._columns: dict[Trial, list[str]] = {}

    @override(CSVLoggerCallback)
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        path = Path(trial.local_path, EXPR_PROGRESS_FILE)
        if trial not in self._columns:
            trial.init_local_path()
            self._restore_from_remote(EXPR_PROGRESS_FILE, trial)
            self._columns[trial] = _read_columns(path)
        row = flatten_dict({k: v for k, v in result.items() if k != "config"}, delimiter="/")
        columns = self._columns[trial]
        new = [key for key in row if key not in columns]
        if new:
            columns += new
            _rewrite(path, columns)
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerow(row)

    @override(CSVLoggerCallback)
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        self._columns.pop(trial, None)  # the trial may continue later


def _read_columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _rewrite(path: Path, columns: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    draft = path.with_suffix(".tmp")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    draft.replace(path)
