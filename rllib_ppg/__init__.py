"""Phasic Policy Gradient for Ray RLlib.

Importing this package makes "PPG" known to RLlib and Tune, and the ids `procgen-<game>-v0` and
`atari-<game>-v5` to gymnasium.
"""

from typing import Any

from ray.rllib.algorithms import registry

from rllib_ppg.callbacks import PPGCallback, ProcgenMetrics
from rllib_ppg.config import PPGConfig
from rllib_ppg.envs import atari, procgen
from rllib_ppg.evaluation.trained_policy import load_policy
from rllib_ppg.ppg import PPG

__all__ = ["PPG", "PPGCallback", "PPGConfig", "ProcgenMetrics", "load_policy"]
__version__ = "0.1.0"


def _load() -> tuple[Any, Any]:
    return PPG, PPG.get_default_config()


# RLlib has no plug-in hook. `tune.register_trainable` is forgotten with `ray.shutdown()`; an entry
# in this table is not.
registry.ALGORITHMS["PPG"] = _load
registry.ALGORITHMS_CLASS_TO_NAME["PPG"] = "PPG"
procgen.register()
atari.register()
