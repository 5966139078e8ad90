"""What `phases.py` has found, for docs/results.md: a table and a picture."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.learning_rows import RESULTS, read_rows

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
    """As Markdown, a row a run; metrics are medians over the run's first and second half."""
    head = ["best", "end", "sum of auxiliary phases", "since the best: of auxiliary, of policy"]
    head += ["clone_kl", "approx_kl", "entropy"]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for run in runs:
        before, after = run.columns["before"], run.columns["after"]
        cells = ["-"] * 4
        if np.isfinite(after).all():
            best = after.argmax()
            of_policy = (before[best + 1 :] - after[best:-1]).sum()
            cells = [
                f"{after[best]:,.0f}",
                f"{after[-1]:,.0f}",
                _sum(run.changes),
                f"{_sum(run.changes[best + 1 :])}, {of_policy:+,.0f}",
            ]
        for key, digits in (("aux/clone_kl", 4), ("approx_kl", 4), ("entropy", 2)):
            medians = [np.median(half) for half in np.array_split(run.columns[key], 2)]
            missing = np.isnan(medians).all()
            cells.append("-" if missing else " / ".join(f"{x:.{digits}f}" for x in medians))
        lines.append(f"| {run.env}, {run.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _sum(x: np.ndarray) -> str:
    """With a standard error from the spread, as if it had no other reason than chance."""
    error = f" ± {x.std(ddof=1) * len(x) ** 0.5:,.0f}" if len(x) > 1 else ""
    return f"{x.sum():+,.0f}{error}"


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
