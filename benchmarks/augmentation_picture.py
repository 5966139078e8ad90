"""Draws frames of Procgen under each augmentation.

For docs/guides/aux-losses.md:

    python -m benchmarks.augmentation_picture docs/augmentation.png
"""

from __future__ import annotations

import sys

import gymnasium as gym
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import rllib_ppg  # noqa: F401 (registers envs)
from rllib_ppg.augmentation import AUGMENTATIONS, NUM_RANDOM


def main(target: str) -> None:
    """See the module."""
    frames = []
    for game in ("starpilot", "coinrun", "miner"):
        env = gym.make(f"procgen-{game}-v0", distribution_mode="easy")
        env.reset(seed=0)
        for _ in range(40):
            frame, *_ = env.step(4)  # which does nothing
        frames.append(frame)
        env.close()
    images = torch.from_numpy(np.stack(frames))
    u = torch.rand(len(images), NUM_RANDOM, generator=torch.Generator().manual_seed(1))
    shown = {"the frame": images} | {name: f(images, u) for name, f in AUGMENTATIONS.items()}
    figure, axes = plt.subplots(len(images), len(shown), figsize=(9, 5.6))
    for k, (name, column) in enumerate(shown.items()):
        axes[0, k].set_title(name, fontsize=9)
        for ax, image in zip(axes[:, k], column, strict=True):
            ax.imshow(image)
            ax.axis("off")
    figure.tight_layout()
    figure.savefig(target, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
