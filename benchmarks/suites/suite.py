"""What a suite is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


@dataclass(frozen=True)
class Suite:
    """Tasks that are trained and reported together.

    Attributes:
        envs: gymnasium ids.
        env_steps: of each run.
        seeds: of each task and arm.
        arms: a config for an env's id, by the arm's name.
        openai: experiments of OpenAI's on the same tasks, whose curves are shown beside the arms'.
        diagnose: whether `diagnostics.py` measures the runs.
    """

    envs: tuple[str, ...]
    env_steps: int
    seeds: tuple[int, ...]
    arms: Mapping[str, Callable[[str], AlgorithmConfig]]
    openai: tuple[str, ...] = ()
    diagnose: bool = False
