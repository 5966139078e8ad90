"""Makes the algorithm known to RLlib and Tune, and its environments known to gymnasium."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.rllib.algorithms import registry

from rllib_ppg import ray_warnings
from rllib_ppg.envs import atari, procgen

if TYPE_CHECKING:
    from rllib_ppg.config import PPGConfig
    from rllib_ppg.ppg import PPG


def register() -> None:
    """Registers "PPG" and the ids of Procgen's and Atari's games; repeating it is harmless.

    RLlib has no plug-in mechanism, so PPG gets an entry in RLlib's own table. Unlike a trainable
    that `tune.register_trainable` registers, it survives `ray.shutdown()`.
    """
    registry.ALGORITHMS["PPG"] = _load
    registry.ALGORITHMS_CLASS_TO_NAME["PPG"] = "PPG"
    ray_warnings.keep_back()
    procgen.register()
    atari.register()


def _load() -> tuple[type[PPG], PPGConfig]:
    from rllib_ppg.ppg import PPG

    return PPG, PPG.get_default_config()
