"""Which plots a report has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rllib_ppg.metrics import METRICS
from rllib_ppg.reports import curves
from rllib_ppg.reports.figures import Plot, over_aux_epochs, over_steps, time_split
from rllib_ppg.reports.legend import Entry

_TRAINING, _EVALUATION = "env_runners", "evaluation/env_runners"
_RETURNS = {
    "episode_return_mean": "Mean return",
    "normalized_return_mean": "Normalised return",
    "episode_len_mean": "Episode length",
}
_GAP = "evaluation/generalization_gap"
# As PPG's env runners and RLlib's call them.
_MODULE_RETURNS = tuple(f"{_TRAINING}/module_episode_{x}_mean" for x in ("returns", "return"))
# A module's metrics, as PPG and RLlib's other algorithms call them, in the order of their plots.
_POLICY_PHASE = {
    "approx_kl": "KL divergence",
    "entropy": "Entropy",
    "clip_fraction": "Clip fraction",
    "vf_explained_var": "Explained variance of the value function",
    "policy_loss": "Policy loss",
    "vf_loss": "Value loss",
    "total_loss": "Total loss",
}
_OF_RLLIB = {"mean_kl_loss": "approx_kl"}
_AUX_PHASE = {
    "clone_kl": "KL divergence from the policy before the phase",
    "vf_aux_loss": "Loss of the auxiliary value head",
    "vf_aux_explained_var": "Explained variance of the auxiliary value head",
    "vf_loss": "Value loss",
}
_ABOUT = {name: about for group in METRICS.values() for name, about in group.items()}


@dataclass(frozen=True)
class Section:
    """Plots under a heading.

    Attributes:
        title: The heading.
        plots: The plots.
        about: A sentence on them; may be "".
    """

    title: str
    plots: Sequence[Plot]
    about: str = ""


def is_shown(path: str) -> bool:
    """Returns whether a report needs a metric; most of the others are RLlib's counters."""
    if path.startswith("learners/"):
        return not re.search(r"/__all_modules__/|throughput|/(diff_)?num_|_seq_no|_size_", path)
    parent, _, name = path.rpartition("/")
    if parent in (_TRAINING, _EVALUATION):
        return name in _RETURNS or path == curves.EVALUATED
    return parent in (*_MODULE_RETURNS, "timers", "") or path == _GAP


def sections(entries: Sequence[Entry]) -> list[Section]:
    """Returns the sections that have plots."""
    return [section for section in _sections(entries) if section.plots]


def _sections(entries: Sequence[Entry]) -> Iterator[Section]:
    yield Section("Returns", _returns(entries))
    trials = [trial for entry in entries for trial in entry.trials]
    modules = list(dict.fromkeys(module for trial in trials for module in curves.modules(trial)))
    for module in modules:
        of_module = f" of {module}" if len(modules) > 1 else ""
        policy_phase = _policy_phase(entries, module)
        if of_module:
            policy_phase[:0] = _there(
                [over_steps("Mean return", entries, *(f"{x}/{module}" for x in _MODULE_RETURNS))]
            )
        yield Section(f"Policy phase{of_module}", policy_phase)
        yield Section(
            f"Auxiliary phases{of_module}",
            _auxiliary_phases(entries, module),
            "Each phase is a line over its epochs.",
        )
    yield Section(
        "Time",
        _there([time_split(entries)]),
        "The policy phase of RLlib's other algorithms is their learners' update. What an iteration "
        "spends on nothing else counts as its evaluation if it has one.",
    )


def _returns(entries: Sequence[Entry]) -> list[Plot]:
    plots = [
        over_steps(
            title,
            entries,
            f"{_TRAINING}/{name}",
            dashed=f"{_EVALUATION}/{name}",
            about=_ABOUT.get(f"{_TRAINING}/{name}", ""),
        )
        for name, title in _RETURNS.items()
    ]
    return _there([*plots, over_steps("Generalisation gap", entries, _GAP, about=_ABOUT[_GAP])])


def _policy_phase(entries: Sequence[Entry], module: str) -> list[Plot]:
    of_module = re.compile(rf"learners/{re.escape(module)}/([^/]+)")
    names = [
        _OF_RLLIB.get(match[1], match[1])
        for entry in entries
        for trial in entry.trials
        for path, column in trial.columns.items()
        if (match := of_module.fullmatch(path)) and (match[1] in _POLICY_PHASE or _varies(column))
    ]
    return _there(
        over_steps(
            _POLICY_PHASE.get(name, name),
            entries,
            f"learners/{module}/{name}",
            *(f"learners/{module}/{other}" for other, ours in _OF_RLLIB.items() if ours == name),
            about=_about(name),
            floor=_floor(name),
        )
        for name in _in_order(names, _POLICY_PHASE)
    )


def _auxiliary_phases(entries: Sequence[Entry], module: str) -> list[Plot]:
    trials = [trial for entry in entries for trial in entry.trials]
    names = [name for trial in trials for name in curves.aux_metrics(trial, module)]
    return _there(
        over_aux_epochs(
            _AUX_PHASE.get(name, name),
            entries,
            module,
            name,
            about=_about(f"aux/{name}"),
            floor=_floor(name),
        )
        for name in _in_order(names, _AUX_PHASE)
    )


def _varies(column: np.ndarray) -> bool:
    values = column[np.isfinite(column)]
    return len(np.unique(values)) > 1


def _about(name: str) -> str:
    return _ABOUT.get(f"learners/default_policy/{name}", "")


def _floor(name: str) -> float | None:
    """An explained variance may be as far below 0 as it likes where targets hardly vary."""
    return -1.0 if name.endswith("explained_var") else None


def _in_order(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Names without repetitions, the known ones first."""
    found = set(names)
    return [name for name in known if name in found] + sorted(found - {*known})


def _there(plots: Iterable[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot is not None]
