"""The table at the end of a sweep: final returns, the best first."""

from __future__ import annotations

from collections.abc import Iterable

from rllib_ppg.plots.curves import std
from rllib_ppg.plots.panels import Panel, by_environment, mean_over_games
from rllib_ppg.plots.results import Trial

_HEAD = ("environment", "setting", "final return", "seeds", "env steps")


def final_table(panels: Iterable[Panel], against: str | None = None) -> str:
    """Returns a table of final returns, a line per curve: mean +- standard deviation over seeds.

    Within an environment the best curve comes first. The final return is the mean over the last 5 %
    of environment steps.

    Args:
        panels: Panels to list.
        against: Name of the setting whose values are the curves' `x`.
    """
    rows = [_HEAD]
    for panel in panels:
        for curve in sorted(panel.curves, key=lambda curve: -curve.finals().mean()):
            finals = curve.finals()
            mean = finals.mean()
            decimals = 3 if abs(mean) < 10 else 1
            spread = f" +- {std(finals):.{decimals}f}" if len(finals) > 1 else ""
            returns = f"{mean:.{decimals}f}{spread}"
            steps = dict.fromkeys(in_short(seed.env_steps[-1]) for seed in curve.seeds)
            label = curve.label if curve.x is None else f"{curve.label}, {against}={curve.x}"
            rows.append((panel.title, label, returns, str(len(finals)), ", ".join(steps)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


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
