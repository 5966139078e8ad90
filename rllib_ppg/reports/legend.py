"""The legend of a report: trials that differ only in their seed share a name and a colour."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rllib_ppg.plots.panels import swept_settings
from rllib_ppg.plots.results import Trial

# Called with a text, and the name of the setting that it is of if there is one.
Redact = Callable[..., str]
# To be told apart on white and on black.
_COLORS = (
    "#3b82c4", "#e07b39", "#2f9e6e", "#c94f7c", "#8a6fd1",
    "#b08d1a", "#2c9fb0", "#96705a", "#7a8ca0", "#d9534f",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """An entry of the legend.

    Attributes:
        name: What its trials are called.
        color: Their colour.
        trials: The trials.
    """

    name: str
    color: str
    trials: tuple[Trial, ...]

    def titled(self) -> Iterator[tuple[str, Trial]]:
        """Yields its trials with names of their own."""
        for i, trial in enumerate(self.trials, start=1):
            own = f"trial {i}" if trial.seed is None else f"seed {trial.seed}"
            yield self.name if len(self.trials) == 1 else f"{self.name}, {own}", trial

    def seeds(self) -> str:
        """Returns the seeds of its trials, as in "0, 1"; "" if they were drawn."""
        seeds = dict.fromkeys(str(t.seed) for t in self.trials if t.seed is not None)
        return ", ".join(seeds)


def legend(trials: Sequence[Trial], redact: Redact) -> list[Entry]:
    """Returns the entries of trials, in the order in which these started.

    Args:
        trials: The trials.
        redact: Returns a text without secrets.
    """
    several_runs = len({trial.run for trial in trials}) > 1
    entries: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        of_run = [other for other in trials if other.run == trial.run]
        parts = [trial.run] * several_runs
        parts += [trial.algo] * (len({other.algo for other in of_run}) > 1)
        parts += [trial.env] * (len({other.env for other in of_run}) > 1)
        parts += [
            f"{path.split('/')[-1]}={redact(str(trial.setting(path)), path)}"
            for path in swept_settings(of_run)[trial.algo]
            if path
        ]
        entries[redact(", ".join(parts or [trial.algo]))].append(trial)
    return [
        Entry(name, _COLORS[i % len(_COLORS)], tuple(members))
        for i, (name, members) in enumerate(entries.items())
    ]
