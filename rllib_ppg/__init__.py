"""Phasic Policy Gradient for Ray RLlib.

Importing this package makes "PPG" known to RLlib and Tune, and the ids `procgen-<game>-v0` and
`atari-<game>-v5` known to gymnasium. The names below are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rllib_ppg.resources.shared_machine import keep_priority, wait_passively

keep_priority()
wait_passively()  # before anything imports torch, also in Ray's workers

from rllib_ppg._registration import register  # noqa: E402
from rllib_ppg._version import __version__  # noqa: E402

if TYPE_CHECKING:
    from rllib_ppg.aux_losses.augmentation_consistency import AugmentationConsistencyLoss
    from rllib_ppg.aux_losses.aux_loss import AuxLoss
    from rllib_ppg.aux_losses.dynamics import DynamicsLoss
    from rllib_ppg.aux_losses.inverse_dynamics import InverseDynamicsLoss
    from rllib_ppg.aux_losses.reward import RewardLoss
    from rllib_ppg.aux_losses.value import ValueLoss
    from rllib_ppg.callbacks import PPGCallback, ProcgenMetrics
    from rllib_ppg.config import PPGConfig
    from rllib_ppg.evaluation.trained_policy import load_policy
    from rllib_ppg.learner import PPGTorchLearner
    from rllib_ppg.networks.ppo_rl_module import ImpalaPPOModule
    from rllib_ppg.networks.rl_module import PPGCatalog, PPGTorchRLModule
    from rllib_ppg.ppg import PPG
    from rllib_ppg.tune_callbacks.csv_logger import CSVLogger
    from rllib_ppg.tune_callbacks.wandb_logger import WandbLogger

_MODULES = {
    "AuxLoss": "aux_losses.aux_loss",
    "AugmentationConsistencyLoss": "aux_losses.augmentation_consistency",
    "ValueLoss": "aux_losses.value",
    "RewardLoss": "aux_losses.reward",
    "DynamicsLoss": "aux_losses.dynamics",
    "InverseDynamicsLoss": "aux_losses.inverse_dynamics",
    "PPG": "ppg",
    "PPGConfig": "config",
    "PPGCallback": "callbacks",
    "ProcgenMetrics": "callbacks",
    "PPGTorchLearner": "learner",
    "PPGTorchRLModule": "networks.rl_module",
    "PPGCatalog": "networks.rl_module",
    "ImpalaPPOModule": "networks.ppo_rl_module",
    "WandbLogger": "tune_callbacks.wandb_logger",
    "load_policy": "evaluation.trained_policy",
    "CSVLogger": "tune_callbacks.csv_logger",
}
__all__ = [
    "PPG",
    "AugmentationConsistencyLoss",
    "AuxLoss",
    "CSVLogger",
    "DynamicsLoss",
    "ImpalaPPOModule",
    "InverseDynamicsLoss",
    "PPGCallback",
    "PPGCatalog",
    "PPGConfig",
    "PPGTorchLearner",
    "PPGTorchRLModule",
    "ProcgenMetrics",
    "RewardLoss",
    "ValueLoss",
    "WandbLogger",
    "__version__",
    "load_policy",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
