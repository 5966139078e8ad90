"""A report's table of settings: what was set, and in what runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ray.tune.error import TuneError
from ray.tune.registry import get_trainable_cls
from ray.tune.utils.util import SafeFallbackEncoder

from rllib_ppg.plots.results import settings_by_path
from rllib_ppg.reports.legend import Entry, Redact


@dataclass(frozen=True)
class Row:
    """A setting.

    Attributes:
        path: Its path.
        values: What it is in each entry of the legend.
    """

    path: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the values are not all the same."""
        return len(set(self.values)) > 1


def changed_settings(entries: Iterable[Entry], redact: Redact) -> list[Row]:
    """Returns the settings that differ from the algorithm's defaults, those that vary first.

    Args:
        entries: Entries of the legend.
        redact: Returns a text without secrets.
    """
    entries = list(entries)
    paths = {
        path
        for entry in entries
        for trial in entry.trials
        for path, value in trial.given.items()
        # The command line adds callbacks of its own.
        if not path.startswith("callbacks") and value != _defaults(trial.algo).get(path, _Unset)
    }
    rows = [
        Row(path, tuple(_values(entry, path, redact) for entry in entries))
        for path in sorted(paths)
    ]
    return sorted(rows, key=lambda row: not row.differs)


class _Unset:
    """Stands for the default of a setting that has none."""


def _values(entry: Entry, path: str, redact: Redact) -> str:
    values = [trial.setting(path) for trial in entry.trials]
    texts = ["" if value is None else _text(value) for value in values]
    return ", ".join(dict.fromkeys(redact(text, path) for text in texts))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@cache
def _defaults(algo: str) -> Mapping[str, Any]:
    """The defaults of an algorithm as results have them; none if it is not one of RLlib's."""
    try:
        config = get_trainable_cls(algo).get_default_config()
    except (TuneError, AttributeError):
        return {}
    text = json.dumps(config.to_dict(), cls=SafeFallbackEncoder)
    return settings_by_path(json.loads(text))
