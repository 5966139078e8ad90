"""The setting `aux_losses`: names, weights and settings, as losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from torch import nn

from rllib_ppg.aux_losses.augmentation_consistency import AugmentationConsistencyLoss
from rllib_ppg.aux_losses.aux_loss import REPLAY_COLUMNS, AuxLoss
from rllib_ppg.aux_losses.dynamics import DynamicsLoss
from rllib_ppg.aux_losses.inverse_dynamics import InverseDynamicsLoss
from rllib_ppg.aux_losses.reward import RewardLoss
from rllib_ppg.aux_losses.value import ValueLoss
from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.envs.spaces import Actions
from rllib_ppg.setting_values import format_value

SHIPPED: dict[str, type[AuxLoss]] = {
    "value": ValueLoss,
    "reward": RewardLoss,
    "dynamics": DynamicsLoss,
    "augmentation_consistency": AugmentationConsistencyLoss,
    "inverse_dynamics": InverseDynamicsLoss,
}
VALUE = "value"
_TAKEN = ("vf", "vf_aux", "clone")  # `NAME_loss` is a metric, and these are others' names


def build_aux_losses(setting: Any) -> dict[str, AuxLoss]:
    """The losses by name.

    Args:
        setting: For each name a weight, a dict with `weight`, `class` and the loss's settings, or
            an `AuxLoss`.

    Raises:
        ValueError: The setting is wrong; the error says in one sentence what would be right.
    """
    if not isinstance(setting, Mapping) or not setting:
        raise ValueError(
            "aux_losses is a dict of names and weights that is not empty (e_aux=0 turns auxiliary "
            f"phases off), not {format_value(setting)}"
        )
    return {name: _build(name, value) for name, value in setting.items()}


def replay_columns(losses: Mapping[str, AuxLoss]) -> list[str]:
    """What the replay list holds of each state beside observation and mask.

    V_targ is always there, for L_value. `ended` says whether the step ended the episode.
    """
    asked_for = {name for loss in losses.values() for name in loss.columns}
    if any(loss.false_transitions for loss in losses.values()):
        asked_for.add("actions")
    columns = ["V_targ", *sorted(asked_for - {"V_targ"})]
    return columns + ["ended"] * any(loss.next_state for loss in losses.values())


def replay_column_bytes(losses: Mapping[str, AuxLoss], action_space: gym.Space) -> int:
    """Bytes that mask and columns of a state take in the replay list."""
    actions = Actions(action_space)
    sizes = {
        "actions": math.prod(actions.shape or ()) * actions.dtype.itemsize,
        "ended": np.dtype(bool).itemsize,
    }
    float32 = np.dtype(np.float32).itemsize
    return sizes["ended"] + sum(sizes.get(name, float32) for name in replay_columns(losses))


def check_spaces(
    losses: Mapping[str, AuxLoss], observation_space: gym.Space, action_space: gym.Space
) -> None:
    """Raises ValueError if a loss can't be computed for an env with these spaces."""
    for name, loss in losses.items():
        try:
            loss.check(observation_space, action_space)
        except ValueError as e:
            raise ValueError(f"aux_losses[{name!r}]: {e}") from e


def _build(name: Any, value: Any) -> AuxLoss:
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(
            f"aux_losses has the name {format_value(name)}: use letters, digits and underscores"
        )
    if name in _TAKEN or hasattr(nn.ModuleDict(), name):  # which holds the heads by name
        raise ValueError(f"aux_losses can't have the name {name!r}, which is taken")
    try:
        loss = value if isinstance(value, AuxLoss) else _from_plain_data(name, value)
        if not hasattr(loss, "weight"):
            raise ValueError(f"{type(loss).__name__}.__init__() does not call AuxLoss.__init__()")
        unknown = {*loss.columns} - {*REPLAY_COLUMNS}
        if unknown:
            raise ValueError(
                f"asks for the column {min(unknown)!r}{did_you_mean(min(unknown), REPLAY_COLUMNS)}"
            )
    except (TypeError, ValueError) as e:
        raise ValueError(f"aux_losses[{name!r}]: {e}") from e
    if isinstance(loss, ValueLoss) != (name == VALUE):
        raise ValueError(f"in aux_losses, {VALUE!r} is the name of ValueLoss and of nothing else")
    return loss


def _from_plain_data(name: str, value: Any) -> AuxLoss:
    settings = dict(value) if isinstance(value, Mapping) else {"weight": value}
    cls = settings.pop("class", None)
    if cls is None:
        if name not in SHIPPED:
            raise ValueError(
                f"no loss is called so{did_you_mean(name, SHIPPED)}; one of your own needs `class`"
            )
        cls = SHIPPED[name]
    elif isinstance(cls, str):
        cls = _import(cls)
    if not (isinstance(cls, type) and issubclass(cls, AuxLoss)):
        raise ValueError(
            f"`class` is a class derived from AuxLoss, or its path, not {format_value(cls)}"
        )
    return cls(**settings)


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as e:
        raise ValueError(f"`class` {path!r} can't be imported: {e}") from e
