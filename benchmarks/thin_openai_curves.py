"""Makes `rllib_ppg/plots/data/openai_curves.csv.gz` of OpenAI's published Procgen curves.

The input has one line a point, `experiment,game,run,env_steps,episode_reward_mean`, put together
from the `progress-<game>.csv` files of github.com/openai/phasic-policy-gradient; the output has one
line a curve:

    python -m benchmarks.thin_openai_curves CURVES.csv.gz rllib_ppg/plots/data/openai_curves.csv.gz
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd

STEPS_A_ROW = 65_536  # between two points of OpenAI's logs
DENSE_ROWS = 122  # up to 8M steps; the input has a point every 2M after that
DECIMALS = 2


def main(source: str, target: str) -> None:
    """Keeps a point every 15 % of steps up to 8M, and every point after that."""
    points = pd.read_csv(source)
    curves = points.pivot(
        index=["experiment", "game", "run"], columns="env_steps", values="episode_reward_mean"
    )
    early = {round(row) for row in np.geomspace(1, DENSE_ROWS, 34)}
    rows = [steps // STEPS_A_ROW for steps in curves.columns]
    kept = curves.loc[:, [row in early or row > DENSE_ROWS for row in rows]].round(DECIMALS)
    # Without a time stamp, so that the same curves give the same file.
    Path(target).write_bytes(gzip.compress(kept.to_csv().encode(), mtime=0))
    print(f"{len(kept)} curves of {kept.shape[1]} points, {Path(target).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
