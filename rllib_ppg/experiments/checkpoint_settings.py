"""`checkpoint_config` of an experiment: which of a trial's checkpoints Tune writes and keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rllib_ppg.experiments.settings import reject_unknown
from rllib_ppg.setting_rule import Rule
from rllib_ppg.setting_values import is_whole

if TYPE_CHECKING:
    from ray import tune

_RULES = {
    "checkpoint_at_end": Rule(lambda x: x is None or isinstance(x, bool), "True or False"),
    "checkpoint_frequency": Rule(lambda x: is_whole(x) and x >= 0, "a whole number of at least 0"),
    "checkpoint_score_attribute": Rule(
        lambda x: x is None or isinstance(x, str), "the name of a result"
    ),
    "checkpoint_score_order": Rule(lambda x: x in ("max", "min"), "'max' or 'min'"),
    "num_to_keep": Rule(
        lambda x: x is None or (is_whole(x) and x >= 1), "None or a whole number of at least 1"
    ),
}


def make_checkpoint_config(config: Mapping[str, Any]) -> tune.CheckpointConfig:
    """Makes Tune's checkpoint config, by default without a checkpoint at the end.

    PPG's checkpoints hold the replay list, and gigabytes are written only if you ask for them.

    Raises:
        ValueError: There is no such setting, or it can't have that value.
    """
    from ray import tune

    reject_unknown(config, _RULES, "checkpoint_config")
    for name, value in config.items():
        _RULES[name].check(f"checkpoint_config.{name}", value)
    return tune.CheckpointConfig(**{"checkpoint_at_end": False, **config})
