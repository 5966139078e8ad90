"""Makes `rllib_ppg/plots/data/openai_curves.csv.gz` of OpenAI's published Procgen curves.

    git clone https://github.com/openai/phasic-policy-gradient CLONE
    python -m benchmarks.thin_openai_curves CLONE rllib_ppg/plots/data/openai_curves.csv.gz

The input is a file a curve, `phasic_policy_gradient/results/EXPERIMENT/progress-GAME.csv`, with a
row an iteration; the output has one line a curve.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

import pandas as pd

STEPS_A_ROW = 65_536
SHARE = 0.025  # of the env steps, that a point is the mean over the last of
DECIMALS = 2


def experiment(folder: str) -> tuple[str, int]:
    """Name and run: "ppg-run1" -> ("ppg", 1), "n-pi-32" -> ("n_pi=32", 0)."""
    if swept := re.fullmatch(r"(\w+)-(\w+)-(\d+)", folder):
        return f"{swept[1]}_{swept[2]}={swept[3]}", 0
    name, run = folder.split("-run")
    return {"ppgsingle": "ppg_single"}.get(name, name), int(run)


def ends(rows: int) -> list[int]:
    """Where the points lie: row numbers from the last one back, each `SHARE` before the next."""
    found = [rows]
    while found[-1] > 1:
        found.append(min(found[-1] - 1, int(found[-1] * (1 - SHARE))))
    return found[::-1]


def main(clone: str, target: str) -> None:
    """Writes the file; a point is the mean over the rows since the point before."""
    curves = {}
    for path in Path(clone, "phasic_policy_gradient", "results").glob("*/progress-*.csv"):
        name, run = experiment(path.parent.name)
        game = path.stem.removeprefix("progress-")
        curves[name, game, run] = pd.read_csv(path)["EpRewMean"]
    full = pd.DataFrame(curves).T.sort_index()  # [curves, rows]
    last = ends(full.shape[1])
    points = {
        end * STEPS_A_ROW: full.iloc[:, begin:end].mean(axis=1)
        for begin, end in zip([0, *last], last, strict=False)
    }
    thin = pd.DataFrame(points).round(DECIMALS)
    thin.index.names = ["experiment", "game", "run"]
    # Without a time stamp, so that the same curves give the same file.
    Path(target).write_bytes(gzip.compress(thin.to_csv().encode(), mtime=0))
    print(f"{len(thin)} curves of {thin.shape[1]} points, {Path(target).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
