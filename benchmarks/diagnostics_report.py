"""The table of `benchmarks/diagnostics.py` in docs/results/continuous-control.md."""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np

from benchmarks.learning_rows import RESULTS

FOLDER = RESULTS / "mujoco_choice" / "diagnostics"
FROM_TENTH = 3  # of the run: what is compared is training, not its start
# Title, column, and whether the first and the last iteration of a phase are told apart.
COLUMNS = (
    ("KL of an iteration", "kl_on_new_states", False),
    ("in its last epoch", "approx_kl_last", False),
    ("gradient / Adam", "gradient_over_adam_first", True),
    ("saturated", "saturated", False),
    ("pre-activation", "preactivation", False),
    ("effective rank", "effective_rank", False),
    ("cosine", "cosine_of_halves", False),
    ("log std", "log_std", False),
    ("explained variance", "vf_explained_var", True),
)

Rows = dict[tuple[str, str], list[list[dict[str, str]]]]


def read() -> Rows:
    """The rows of each seed, by env and arm."""
    found: Rows = defaultdict(list)
    for path in sorted(FOLDER.glob("*.csv")):
        env, arm = path.stem.rsplit("_", 1)[0].split("_", 1)
        with path.open() as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        found[env, arm].append([row for row in rows if int(row["tenth"]) >= FROM_TENTH])
    return found


def table(found: Rows) -> str:
    """A line for each env and arm: means over its seeds."""
    titles = [title for title, *_ in COLUMNS]
    lines = [
        "| | | " + " | ".join(titles) + " | seeds |",
        "|" + "---|" * (len(titles) + 3),
    ]
    for (env, arm), seeds in found.items():
        cells = []
        for _, column, by_place in COLUMNS:
            places = [0, -1] if by_place else [None]
            cells.append(" → ".join(_mean(seeds, column, place) for place in places))
        lines.append(f"| {env} | {arm} | " + " | ".join(cells) + f" | {len(seeds)} |")
    return "\n".join(lines)


def _mean(seeds: list[list[dict[str, str]]], column: str, place: int | None) -> str:
    """Mean over seeds and tenths; of the phase's first (0) or last (-1) iteration, or of all."""
    means = []
    for rows in seeds:
        iterations = sorted({int(row["iteration_of_phase"]) for row in rows})
        chosen = iterations if place is None else [iterations[place]]
        values = [
            float(row[column])
            for row in rows
            if row[column] and int(row["iteration_of_phase"]) in chosen
        ]
        # An Adam that has just begun to count anew has no second moment: NaN or 0.
        has_none = column.startswith("gradient_over_adam") and not any(values)
        if values and np.isfinite(values).all() and not has_none:
            means.append(np.mean(values))
    return f"{np.mean(means):.2g}" if means else "-"
