"""How far a quarter of the batch changes what is learned: the area between two curves.

`learning_report.py` fills the table of docs/results/batch-size.md in with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ARMS = ("ppg", "ewma")
RESAMPLES = 10_000


def table(suites: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """The areas as Markdown.

    Args:
        suites: For each task, the returns of each arm at equal env steps, `[seeds, points]`.
    """
    lines = ["| | | area between the curves [95 %] | quarter / whole [95 %] |", "|---" * 4 + "|"]
    for task, returns in suites.items():
        for arm in ARMS:
            if {arm, f"{arm}_quarter"} <= returns.keys():
                whole, quarter = returns[arm], returns[f"{arm}_quarter"]
                rng = np.random.default_rng(0)
                drawn = np.array([
                    compared(*(x[rng.integers(len(x), size=len(x))] for x in (whole, quarter)))
                    for _ in range(RESAMPLES)
                ])  # fmt: skip
                area, level = compared(whole, quarter)
                (area_low, level_low), (area_high, level_high) = np.quantile(
                    drawn, [0.025, 0.975], axis=0
                )
                lines.append(
                    f"| {task} | {arm} | {area:.2f} [{area_low:.2f}, {area_high:.2f}] "
                    f"| {level:.2f} [{level_low:.2f}, {level_high:.2f}] |"
                )
    return "\n".join(lines)


def compared(whole: np.ndarray, quarter: np.ndarray) -> tuple[float, float]:
    """Area between the means over seeds, and that under the second, over that under the first."""
    a, b = whole.mean(0), quarter.mean(0)
    return float(np.abs(a - b).mean() / a.mean()), float(b.mean() / a.mean())
