"""What the entries of `model_config` may be, as the networks take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.rllib.models.utils import get_activation_fn, get_initializer_fn

from rllib_ppg.networks.recurrent_encoder import CELLS
from rllib_ppg.setting_rule import Rule

_ACTIVATIONS = ("tanh", "relu", "swish", "silu", "elu", "linear")


def _is_size(value: Any) -> bool:
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_whole and bool(value >= 1)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and all(map(_is_size, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_activation(value: Any) -> bool:
    try:
        get_activation_fn(value, framework="torch")
    except (ValueError, TypeError):
        return False
    return True


def _is_initializer(value: Any) -> bool:
    try:
        get_initializer_fn(value, framework="torch")
    except (ValueError, AttributeError):
        return False
    return True


_SIZE = Rule(_is_size, "a whole number of at least 1")
_SIZES = Rule(_are_sizes, "a list of whole numbers of at least 1")
_SWITCH = Rule(
    lambda value: isinstance(value, bool | int | np.bool_) and value in (0, 1), "True or False"
)
_RULES = {
    "impala_channels": Rule(
        lambda value: _are_sizes(value) and len(value) > 0,
        "a list of whole numbers of at least 1 that is not empty",
    ),
    "impala_dense": _SIZE,
    "lstm_cell_size": _SIZE,
    "use_lstm": _SWITCH,
    "free_log_std": _SWITCH,
    "log_std_clip_param": Rule(
        lambda value: _is_number(value) and value >= 0, "a non-negative number"
    ),
    "conv_filters": Rule(
        lambda value: (
            value is None
            or (
                isinstance(value, list | tuple)
                and all(isinstance(layer, list | tuple) for layer in value)
            )
        ),
        "None or a list of layers [channels, kernel, stride]",
    ),
    "recurrent_cell": Rule(
        lambda value: isinstance(value, str) and value in CELLS, "'lstm' or 'gru'", tuple(CELLS)
    ),
    "freeze": Rule(
        lambda value: (
            isinstance(value, list | tuple | set) and all(isinstance(name, str) for name in value)
        ),
        "a list of names of parts",
    ),
}
# Of RLlib's entries for each of its networks, by the ends of their names.
_RULES_BY_END = {
    "_hiddens": _SIZES,
    "_activation": Rule(
        _is_activation,
        f"the name of an activation ({', '.join(_ACTIVATIONS)}, or a class of torch.nn)",
        _ACTIVATIONS,
    ),
    "_initializer": Rule(
        _is_initializer, "None or the name of a function of torch.nn.init that ends in _"
    ),
    "_initializer_kwargs": Rule(
        lambda value: value is None or isinstance(value, Mapping), "None or a dict"
    ),
    "_use_layernorm": _SWITCH,
}


def check_model_values(model_config: Mapping[str, Any], where: str = "model_config") -> None:
    """Raises ValueError for an entry with a value of which no network can be built.

    Args:
        model_config: Entries by name.
        where: What holds them, for the error.
    """
    for name, value in model_config.items():
        rule = _RULES.get(name) or next(
            (rule for end, rule in _RULES_BY_END.items() if name.endswith(end)), None
        )
        if rule:
            rule.check(f"{where}[{name!r}]", value)
