"""Draws panels of curves: returns against environment steps, or final returns against a setting.

The colours are Okabe and Ito's, which colour-blind people can tell apart. PPG and PPO have the same
colours in every picture; OpenAI's curves are dashed and muted.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator, PercentFormatter
from pyarrow import fs

from rllib_ppg.checkpoint.folder import resolve
from rllib_ppg.plots.curves import Curve, Value
from rllib_ppg.plots.panels import Panel

SUFFIXES = (".png", ".pdf", ".svg")
EPISODE_RETURN = "episode return"
_ALGORITHMS = {"PPG": "#0072B2", "PPO": "#D55E00"}
_OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_REFERENCES = {"ppg": "#5F8AA3", "ppo": "#946B4A"}
_GREYS = ("#555555", "#888888", "#AAAAAA")
_DASHES = ((0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (2, 1)))
_MARKERS = "os^Dvp*"
_ENDED_EARLY: dict[str, Any] = {"marker": "x", "linestyle": "none", "ms": 9, "mew": 2}
# Of the legend, in inches.
_HANDLE_WIDTH, _LETTER_WIDTH = 0.9, 0.08
# Any, because the stubs require the names of all settings as literals.
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class _Look:
    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]] = "-"

    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "linestyle": self.dashes, "linewidth": 1.8}


def learning_curves(panels: Sequence[Panel], y_label: str = EPISODE_RETURN) -> Figure:
    """Draws the mean over seeds against environment steps, with a band of one standard deviation.

    Seeds that have no steps in common are drawn one by one.

    Args:
        panels: Panels to draw, at least one.
        y_label: Label of returns that are not normalised.
    """
    looks = _looks(panels)
    figure, axes = _grid(panels, y_label, "environment steps")
    for ax, panel in zip(axes, panels, strict=True):
        for curve in panel.curves:
            look = looks[curve.label]
            if not curve.has_mean():
                for seed in curve.seeds:
                    is_short = seed.is_short_of(panel.last_step())
                    _line(ax, curve.label, look, seed.env_steps, seed.returns, is_short)
                continue
            steps, mean, spread = curve.mean()
            _line(ax, curve.label, look, steps, mean, curve.num_short_of(panel.last_step()) > 0)
            if len(curve.seeds) > 1:
                low, high = mean - spread, mean + spread
                alpha = 0.1 if curve.reference else 0.2
                ax.fill_between(steps, low, high, color=look.colour, alpha=alpha, lw=0)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    several = any(len(curve.seeds) > 1 for panel in panels for curve in panel.curves)
    apart = any(not curve.has_mean() for panel in panels for curve in panel.curves)
    _legend(
        figure,
        axes,
        panels,
        ["mean over seeds; band: ± 1 standard deviation"] * several
        + ["one by one where seeds have no steps in common"] * apart,
    )
    return figure


def _line(
    ax: Axes, label: str, look: _Look, steps: np.ndarray, returns: np.ndarray, is_short: bool
) -> None:
    # A single point draws no line.
    marker = look.marker if len(steps) == 1 else None
    ax.plot(steps, returns, label=label, marker=marker, **look.line())
    if is_short:
        ax.plot(steps[-1:], returns[-1:], color=look.colour, **_ENDED_EARLY)


def sweep(panels: Sequence[Panel], setting: str, y_label: str = EPISODE_RETURN) -> Figure:
    """Draws final returns against a setting: a dot per seed, and a line through the means.

    A curve without the setting, for example PPO's in a sweep of N_pi, is a horizontal line.

    Args:
        panels: Panels that were made with `against=setting`.
        setting: Name of the setting.
        y_label: Label of returns that are not normalised.
    """
    looks = _looks(panels)
    figure, axes = _grid(panels, f"final {y_label}", setting)
    values = [c.x for panel in panels for c in panel.curves if c.x is not None]
    position = _set_scale(axes, values)
    for ax, panel in zip(axes, panels, strict=True):
        for label in dict.fromkeys(curve.label for curve in panel.curves):
            look = looks[label]
            curves = [curve for curve in panel.curves if curve.label == label]
            for curve in curves:
                if curve.x is None:
                    ax.axhline(curve.finals().mean(), label=label, **look.line())
            swept = {position[curve.x]: curve for curve in curves if curve.x is not None}
            if swept:
                means = [curve.finals().mean() for curve in swept.values()]
                ax.plot([*swept], means, label=label, marker=look.marker, **look.line())
            for x, curve in swept.items():
                finals = curve.finals()
                if len(finals) > 1:
                    ax.plot([x] * len(finals), finals, ".", color=look.colour, alpha=0.6, ms=7)
                early = [
                    seed.final() for seed in curve.seeds if seed.is_short_of(panel.last_step())
                ]
                if early:
                    ax.plot([x] * len(early), early, color=look.colour, **_ENDED_EARLY)
    several = any(len(curve.seeds) > 1 for panel in panels for curve in panel.curves)
    theirs = any(curve.reference for panel in panels for curve in panel.curves)
    _legend(
        figure,
        axes,
        panels,
        ["large: mean over seeds; small: one seed"] * several
        + ["OpenAI's at our number of steps"] * theirs,
    )
    return figure


def importance(shares: Mapping[str, float], metric: str) -> Figure:
    """Draws how much each setting mattered to a search's results.

    Args:
        shares: Shares by setting, which add up to 1.
        metric: Name of the result that was optimised.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(6, 1 + 0.3 * len(shares)), layout="constrained")
        ax = figure.add_subplot()
        bars = ax.barh([*shares], [*shares.values()], color=_ALGORITHMS["PPG"])
        ax.bar_label(bars, fmt="{:.0%}", padding=3)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.set_xlabel(f"importance for {metric}")
    return figure


def save(figure: Figure, path: str | Path, filesystem: fs.FileSystem | None = None) -> None:
    """Writes a picture in the format of the path's suffix.

    Args:
        figure: Picture to write.
        path: Path or URI of the file.
        filesystem: Filesystem of the path; None finds it from the path or URI.
    """
    filesystem, path = resolve(path, filesystem)
    data = io.BytesIO()
    figure.savefig(data, format=PurePosixPath(path).suffix[1:], dpi=150)
    with filesystem.open_output_stream(path) as file:
        file.write(data.getbuffer())


def _grid(panels: Sequence[Panel], y_label: str, x_label: str) -> tuple[Figure, list[Axes]]:
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    width, height = (7.0, 4.2) if len(panels) == 1 else (3.4 * columns, 2.7 * rows)
    with rc_context(_STYLE):
        figure = Figure((width, height + 0.4), layout="constrained")
        axes = [figure.add_subplot(rows, columns, i + 1) for i in range(len(panels))]
        for i, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            ax.set_title(panel.title, weight="bold" if panel.normalized else "normal")
            if i + columns >= len(panels):  # nothing below it
                ax.set_xlabel(x_label)
            if panel.normalized:
                ax.set_ylabel(y_label.replace(EPISODE_RETURN, "normalised return"))
            elif i % columns == 0:
                ax.set_ylabel(y_label)
    return figure, axes


def _looks(panels: Sequence[Panel]) -> dict[str, _Look]:
    """The look of each label's curves."""
    curves = {curve.label: curve for panel in panels for curve in panel.curves}
    ours = [curve for curve in curves.values() if not curve.reference]
    theirs = [curve for curve in curves.values() if curve.reference]
    looks = {
        curve.label: _Look(colour, _MARKERS[i % len(_MARKERS)])
        for i, (curve, colour) in enumerate(zip(ours, _colours(ours), strict=True))
    }
    for i, curve in enumerate(theirs):
        colour = _REFERENCES.get(curve.reference, _GREYS[i % len(_GREYS)])
        looks[curve.label] = _Look(colour, "x", _DASHES[i % len(_DASHES)])
    return looks


def _colours(curves: Sequence[Curve]) -> list[str]:
    if len(curves) > len(_ALGORITHMS) + len(_OTHERS):  # a long sweep
        return [to_hex(colormaps["viridis"](x)) for x in np.linspace(0, 0.92, len(curves))]
    of_algorithm, others = dict(_ALGORITHMS), [*_OTHERS]
    present = {curve.algo for curve in curves}
    others += [colour for algo, colour in _ALGORITHMS.items() if algo not in present]
    return [of_algorithm.pop(curve.algo, "") or others.pop(0) for curve in curves]


def _set_scale(axes: Iterable[Axes], values: Iterable[Value]) -> dict[Value, float]:
    """Scales the axis of a setting for its values, and returns each value's position."""
    numbers = sorted({value for value in values if not isinstance(value, str)})
    words = sorted({value for value in values if isinstance(value, str)})
    position: dict[Value, float] = {}
    base = 1
    if words:
        position.update({number: i for i, number in enumerate(numbers)})
        position.update({word: len(numbers) + i for i, word in enumerate(words)})
    else:
        position.update({number: number for number in numbers})
        if numbers[0] > 0 and all(math.log2(number).is_integer() for number in numbers):
            base = 2
        elif numbers[0] > 0 and numbers[-1] >= 20 * numbers[0]:
            base = 10
    names = [value if isinstance(value, str) else f"{value:g}" for value in position]
    for ax in axes:
        if base > 1:
            ax.set_xscale("log", base=base)
        ax.set_xticks(list(position.values()), names)
        ax.xaxis.set_minor_locator(NullLocator())
    return position


def _legend(
    figure: Figure, axes: Sequence[Axes], panels: Sequence[Panel], notes: Sequence[str]
) -> None:
    handles = {
        label: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    seeds = {
        label: [len(c.seeds) for panel in panels for c in panel.curves if c.label == label]
        for label in handles
    }
    labels = [f"{label} ({_count(seeds[label])})" for label in handles]
    width = figure.get_figwidth()
    column_width = _HANDLE_WIDTH + _LETTER_WIDTH * max(map(len, labels))
    columns = max(1, min(len(labels), int(width / column_width)))
    # Labels that are too wide would push the lines that they explain out of the picture.
    letters = int((width - _HANDLE_WIDTH) / _LETTER_WIDTH)
    labels = [textwrap.fill(label, letters) for label in labels]
    if any(panel.equal_step() for panel in panels):
        notes = [*notes, "x: ended early"]
    caption = textwrap.fill("; ".join(notes), letters)
    # The legend must not shrink the panels.
    lines = math.ceil(sum(text.count("\n") + 1 for text in labels) / columns)
    lines += caption.count("\n")
    figure.set_figheight(figure.get_figheight() + 0.22 * lines)
    with rc_context(_STYLE):
        figure.legend(
            list(handles.values()),
            labels,
            loc="outside lower center",
            ncols=columns,
            title=caption or None,
            title_fontsize="small",
        )


def _count(numbers: Iterable[int]) -> str:
    low, high = min(numbers), max(numbers)
    if low < high:
        return f"{low} to {high} seeds"
    return f"{high} seed{'s' if high > 1 else ''}"
