"""The table at the end of a sweep: final returns, the best first."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rllib_ppg.plots.curves import Curve, std
from rllib_ppg.plots.panels import Panel, by_environment, mean_over_games
from rllib_ppg.plots.results import Trial

_HEAD = ("environment", "setting", "final return", "seeds", "env steps")


def final_table(panels: Iterable[Panel], against: str | None = None) -> str:
    """Returns a table of final returns, a line per curve: mean +- standard deviation over seeds.

    Within an environment the best curve comes first. The final return is the mean over the last 5 %
    of environment steps. If some runs ended early, a last column compares all at the same step.

    Args:
        panels: Panels to list.
        against: Name of the setting whose values are the curves' `x`.
    """
    panels = list(panels)
    steps = [panel.equal_step() for panel in panels]
    is_even = not any(steps)
    rows = [_HEAD if is_even else (*_HEAD, "return at equal steps")]
    for panel, equal in zip(panels, steps, strict=True):
        for curve in sorted(panel.curves, key=lambda curve: -curve.finals().mean()):
            label = curve.label if curve.x is None else f"{curve.label}, {against}={curve.x}"
            row = (
                panel.title,
                label,
                mean_and_spread(curve.finals()),
                str(len(curve.seeds)),
                _steps(curve, panel.last_step()),
            )
            rows.append(row if is_even else (*row, _at(curve, equal)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def mean_and_spread(returns: np.ndarray) -> str:
    """Returns the mean and the standard deviation of returns, as in "490.9 +- 8.1"."""
    mean = returns.mean()
    decimals = 3 if abs(mean) < 10 else 1
    spread = f" +- {std(returns):.{decimals}f}" if len(returns) > 1 else ""
    return f"{mean:.{decimals}f}{spread}"


def _steps(curve: Curve, end: float) -> str:
    """The seeds' last steps, and how many of them ended before `end`."""
    text = ", ".join(dict.fromkeys(in_short(seed.env_steps[-1]) for seed in curve.seeds))
    short = curve.num_short_of(end)
    if not short:
        return text
    return f"{text} ({'' if short == len(curve.seeds) else f'{short} '}ended early)"


def _at(curve: Curve, step: float | None) -> str:
    if step is None:
        return ""
    finals = curve.finals_at(step)
    if len(finals) < len(curve.seeds):
        return "-"
    return f"{mean_and_spread(finals)} (at {in_short(step)})"


def sweep_table(trials: Iterable[Trial]) -> str:
    """Returns the table of trials, with a mean over games if there are several Procgen games."""
    panels = by_environment(trials)
    return final_table([*panels, *mean_over_games(panels)])


def in_short(number: float) -> str:
    """Returns a number with three digits, for example "8.39M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
