"""What `phases.py` has found, for docs/results.md: a table and a picture."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.learning import RESULTS, read_rows

OF_RUN = ("env", "algo", "seed")


@dataclass(frozen=True)
class PlayedRun:
    """One run: `phases.py`'s columns, `[phases]` each; NaN where it has no auxiliary phases."""

    env: str
    arm: str
    seed: str
    columns: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """For a reader."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def changes(self) -> np.ndarray:
        """What each auxiliary phase has changed the mean return by."""
        return self.columns["after"] - self.columns["before"]


def read() -> list[PlayedRun]:
    """All runs that there are."""
    runs = []
    for path in sorted((RESULTS / "phases").glob("*.csv")):
        rows = read_rows(path)
        numbers = [key for key in rows[0] if key not in OF_RUN]
        columns = {key: np.array([float(row[key] or "nan") for row in rows]) for key in numbers}
        runs.append(PlayedRun(*(rows[0][key] for key in OF_RUN), columns))
    return runs


def table(runs: list[PlayedRun]) -> str:
    """As Markdown, a row a run.

    The standard error of a sum is from the spread of what is summed up, as if that had no other
    reason than the episodes' chance. Metrics are medians over the run's first and second half.
    """
    head = ["best", "end", "sum of auxiliary phases", "clone_kl", "approx_kl", "entropy"]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for run in runs:
        after = run.columns["after"]
        cells = ["-", "-", "-"]
        if np.isfinite(after).all():
            error = run.changes.std(ddof=1) * len(after) ** 0.5
            total = f"{run.changes.sum():+,.0f} ± {error:,.0f}"
            cells = [f"{after.max():,.0f}", f"{after[-1]:,.0f}", total]
        for key, digits in (("aux/clone_kl", 4), ("approx_kl", 4), ("entropy", 2)):
            medians = [np.median(half) for half in np.array_split(run.columns[key], 2)]
            missing = np.isnan(medians).all()
            cells.append("-" if missing else " / ".join(f"{x:.{digits}f}" for x in medians))
        lines.append(f"| {run.env}, {run.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(runs: list[PlayedRun]) -> None:
    """Returns of runs with auxiliary phases, and what of them came and went by these."""
    runs = [run for run in runs if np.isfinite(run.changes).all()]
    if not runs:
        return
    envs = sorted({run.env for run in runs})
    figure, axes = plt.subplots(
        1, len(envs), figsize=(4.4 * len(envs), 3.8), layout="constrained", squeeze=False
    )
    for ax, env in zip(axes[0], envs, strict=True):
        for run in (run for run in runs if run.env == env):
            steps = run.columns["env_steps"] / 1e6
            ax.plot(steps, run.columns["after"], label=f"{run.name}: return")
            label = f"{run.name}: sum of auxiliary phases' changes"
            ax.plot(steps, run.changes.cumsum(), label=label)
        ax.set(title=env, xlabel="million env steps", ylabel="return")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(RESULTS / "phases.png", dpi=80)
    plt.close(figure)
