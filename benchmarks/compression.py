"""How small lz4 makes the replay list's frames: all 16 Procgen games, easy and hard, random play.

    python -m benchmarks.compression

Prints a Markdown table: raw bytes / compressed bytes of rows of 256 steps, which is what a replay
block is, and MB/s of one core. Frames of a policy that has learned differ; the order of the games
hardly does.
"""

from __future__ import annotations

import time
from importlib.metadata import version

import gymnasium as gym
import numpy as np

from rllib_ppg.data.compression import Compressed
from rllib_ppg.envs.procgen import GAMES, register

SEED, ENVS, T = 0, 8, 256


def rows(game: str, mode: str) -> np.ndarray:
    """`[ENVS, T, 64, 64, 3]` frames of random play."""
    env = gym.make_vec(
        f"procgen-{game}-v0", ENVS, vectorization_mode="vector_entry_point", distribution_mode=mode
    )
    rng = np.random.default_rng(SEED)
    out = np.empty((ENVS, T, 64, 64, 3), np.uint8)
    obs, _ = env.reset(seed=SEED)
    for t in range(T):
        out[:, t] = obs
        obs = env.step(rng.integers(0, 15, ENVS))[0]
    env.close()
    return out


def main() -> None:
    """See the module."""
    register()
    print(f"lz4 {version('lz4')}, seed {SEED}, {ENVS} envs, {time.strftime('%Y-%m-%d')}\n")
    print("| game | easy | hard | compresses, MB/s | opens, MB/s |")
    print("|---|---|---|---|---|")
    for game in GAMES:
        ratios, seconds = [], np.zeros(2)
        for mode in ("easy", "hard"):
            frames = rows(game, mode)
            start = time.perf_counter()
            blocks = [Compressed.of(row) for row in frames]
            middle = time.perf_counter()
            for row, block in zip(frames, blocks, strict=True):
                assert (block.array() == row).all()
            # The comparison takes a little of it.
            seconds += middle - start, time.perf_counter() - middle
            ratios.append(frames.nbytes / sum(b.nbytes for b in blocks))
        speeds = 2 * frames.nbytes / 1e6 / seconds
        print(
            f"| {game} | {ratios[0]:.1f} | {ratios[1]:.1f} | {speeds[0]:.0f} | {speeds[1]:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
