"""What `phases.py` has found, for docs/results.md: a table and a picture."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.learning import RESULTS

OF_RUN = ("env", "algo", "seed")


@dataclass(frozen=True)
class Phases:
    """One run: `phases.py`'s columns, `[phases]` each."""

    env: str
    arm: str
    seed: str
    columns: dict[str, np.ndarray]

    @property
    def changed(self) -> np.ndarray:
        """What the run's auxiliary phases have changed the mean return by so far, in sum."""
        return np.cumsum(self.columns["after"] - self.columns["before"])


def read() -> list[Phases]:
    """All runs that there are."""
    runs = []
    for path in sorted((RESULTS / "phases").glob("*.csv")):
        with path.open() as f:
            rows = list(csv.DictReader(line for line in f if not line.startswith("#")))
        numbers = [key for key in rows[0] if key not in OF_RUN]
        columns = {key: np.array([float(row[key] or "nan") for row in rows]) for key in numbers}
        runs.append(Phases(*(rows[0][key] for key in OF_RUN), columns))
    return runs


def table(runs: list[Phases]) -> str:
    """As Markdown, a row a run; metrics are medians over the run's second half."""
    head = ["best", "end", "sum of auxiliary phases", "clone_kl", "approx_kl", "entropy"]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for run in runs:
        after = run.columns["after"]
        second_half = slice(len(after) // 2, None)
        clone_kl, approx_kl, entropy = (
            np.median(run.columns[key][second_half])
            for key in ("aux/clone_kl", "approx_kl", "entropy")
        )
        cells = [
            f"{after.max():,.0f}",
            f"{after[-1]:,.0f}",
            f"{run.changed[-1]:+,.0f}",
            f"{clone_kl:.4f}",
            f"{approx_kl:.4f}",
            f"{entropy:.2f}",
        ]
        shown = ("-" if cell.endswith("nan") else cell for cell in cells)
        lines.append(f"| {run.env}, {run.arm} | {' | '.join(shown)} |")
    return "\n".join(lines)


def draw(runs: list[Phases]) -> None:
    """Returns of runs with auxiliary phases, and what of them came and went by these."""
    runs = [run for run in runs if np.isfinite(run.changed).all()]
    envs = sorted({run.env for run in runs})
    figure, axes = plt.subplots(
        1, len(envs), figsize=(4.4 * len(envs), 3.8), layout="constrained", squeeze=False
    )
    for ax, env in zip(axes[0], envs, strict=True):
        for run in (run for run in runs if run.env == env):
            steps = run.columns["env_steps"] / 1e6
            ax.plot(steps, run.columns["after"], label=f"{run.arm}: return")
            label = f"{run.arm}: sum of auxiliary phases' changes"
            ax.plot(steps, run.changed, label=label)
        ax.set(title=env, xlabel="million env steps", ylabel="return")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(RESULTS / "phases.png", dpi=80)
    plt.close(figure)
