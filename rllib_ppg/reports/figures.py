"""A report's plots, as plotly's figures."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rllib_ppg.plots.curves import Points
from rllib_ppg.plots.results import Trial
from rllib_ppg.reports import curves
from rllib_ppg.reports.legend import Entry
from rllib_ppg.reports.time_split import PARTS, seconds

_GRID = "rgba(128, 128, 128, 0.25)"
_AXIS = {"gridcolor": _GRID, "zerolinecolor": _GRID, "linecolor": _GRID}
_LAYOUT: Mapping[str, Any] = {
    "template": "none",
    "paper_bgcolor": "rgba(0, 0, 0, 0)",
    "plot_bgcolor": "rgba(0, 0, 0, 0)",
    "margin": {"l": 56, "r": 12, "t": 8, "b": 44},
    "height": 270,
    "showlegend": False,
    "font": {"size": 12},
}
_ENV_STEPS = "env steps"
_MAX_BARS = 40
_PART_COLORS = ("#3b82c4", "#e07b39", "#8a6fd1", "#2f9e6e", "#b08d1a", "#7a8ca0")


@dataclass(frozen=True)
class Plot:
    """A plot with its title.

    Attributes:
        title: What it shows.
        about: What that means; "" if the title says it.
        figure: The plot.
    """

    title: str
    about: str
    figure: go.Figure

    def to_json(self) -> str:
        """Returns the figure as JSON that may stand in a page's script."""
        return str(self.figure.to_json())


def over_steps(
    title: str,
    entries: Iterable[Entry],
    *paths: str,
    dashed: str = "",
    about: str = "",
    floor: float | None = None,
) -> Plot | None:
    """Plots a metric over env steps; a dot is where an auxiliary phase ended.

    Args:
        title: The plot's title.
        entries: What to plot.
        paths: Paths of the metric; of each trial the first one that it has.
        dashed: Path of another metric, drawn with dots and small circles.
        about: What the metric means.
        floor: Where to cut off what may lie far below.

    Returns:
        The plot; None if there is nothing to plot.
    """
    traces = []
    for entry in entries:
        for name, trial in entry.titled():
            line = curves.curve(trial, next((p for p in paths if p in trial.columns), paths[0]))
            if len(line.env_steps):
                mode = "lines" if len(line.env_steps) > 1 else "markers"
                traces.append(_trace(entry, name, line, mode=mode))
                marks = curves.marks(trial, line)
                traces.append(_trace(entry, name, marks, mode="markers", hoverinfo="skip"))
            other = curves.curve(trial, dashed)
            if len(other.env_steps):
                name = f"{name}, evaluation"
                style: dict[str, Any] = {"mode": "lines", "line_dash": "dot"}
                if len(other.env_steps) <= 50:
                    style |= {"mode": "lines+markers", "marker_symbol": "circle-open"}
                traces.append(_trace(entry, name, other, **style))
    return _plot(title, about, traces, _ENV_STEPS, floor)


def over_aux_epochs(
    title: str,
    entries: Iterable[Entry],
    module: str,
    metric: str,
    *,
    about: str = "",
    floor: float | None = None,
) -> Plot | None:
    """Plots a metric over the epochs of all auxiliary phases; see `over_steps`."""
    traces = []
    for entry in entries:
        for name, trial in entry.titled():
            line = curves.aux_epochs(trial, module, metric)
            if np.isfinite(line.returns).any():
                traces.append(_trace(entry, name, line, mode="lines+markers", steps=False))
    return _plot(title, about, traces, "auxiliary phase", floor)


def time_split(entries: Sequence[Entry]) -> Plot | None:
    """Plots what trials spent their time on: of one trial in the course of it, of several each."""
    named = [pair for entry in entries for pair in entry.titled()]
    x: Sequence[Any]
    if len(named) == 1:
        x, width, split = _in_the_course_of(named[0][1])
    else:
        x, width = [html.escape(name) for name, _ in named], None
        split = np.array([seconds(trial).sum(axis=1) / trial.env_steps[-1] for _, trial in named]).T
    bars = [
        go.Bar(
            x=x,
            y=1000 * spent,
            width=width,
            name=part,
            marker={"color": color, "line": {"width": 0}},
            hovertemplate="%{y:.3g} s<extra>" + part + "</extra>",
        )
        for part, color, spent in zip(PARTS, _PART_COLORS, split, strict=True)
        if (spent > 0).any()
    ]
    plot = _plot("Seconds per 1,000 env steps", "", bars, _ENV_STEPS if len(named) == 1 else "")
    if plot:
        plot.figure.update_layout(
            barmode="stack",
            showlegend=True,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        )
        plot.figure.update_layout(margin_t=40, height=330)
    return plot


def _in_the_course_of(trial: Trial) -> tuple[Any, Any, np.ndarray]:
    """The middles of stretches of a trial's env steps, their lengths, and the seconds per step."""
    n = len(trial.env_steps)
    starts = np.arange(0, n, -(-n // _MAX_BARS))
    ends = trial.env_steps[np.append(starts[1:], n) - 1]
    # Where a run that was restored started is not in its results.
    first = 0 if n == 1 or trial.iterations[0] == 1 else 2 * trial.env_steps[0] - trial.env_steps[1]
    lengths = np.diff(ends, prepend=first)
    split = np.add.reduceat(seconds(trial), starts, axis=1) / lengths
    return ends - lengths / 2, lengths, split


def _trace(
    entry: Entry, name: str, line: Points, *, steps: bool = True, **style: Any
) -> go.Scatter:
    x = "%{x:,.0f} env steps" if steps else "phase %{x:.2f}"
    return go.Scatter(
        x=line.env_steps.astype(np.float32),
        y=line.returns.astype(np.float32),
        meta=entry.name,  # what the page's script finds its traces by
        line_color=entry.color,
        line_width=1.6,
        marker_color=entry.color,
        marker_size=5,
        hovertemplate=None
        if "hoverinfo" in style
        else f"%{{y:.4g}}<br>{x}<extra>{html.escape(name)}</extra>",
        **style,
    )


def _plot(
    title: str, about: str, traces: Sequence[Any], x: str, floor: float | None = None
) -> Plot | None:
    if not traces:
        return None
    axis = {**_AXIS, "title": {"text": x, "standoff": 8}}
    if x == _ENV_STEPS:
        axis["tickformat"] = "~s"
    figure = go.Figure(traces, {**_LAYOUT, "xaxis": axis, "yaxis": _AXIS})
    if floor is not None:
        values = np.concatenate([trace.y for trace in traces])
        top = max(np.nanmax(values), floor)
        if np.nanmin(values) < floor:
            figure.update_yaxes(range=[floor, top + 0.05 * (top - floor or 1)])
            about += f" Cut off below {floor:g}."
    return Plot(title, about, figure)
