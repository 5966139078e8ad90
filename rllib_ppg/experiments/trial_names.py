"""What the trials of a search are called: Tune's names list settings that all trials share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_LONGEST = 120  # of a folder's name


def settings_in_words(settings: Mapping[Any, Any]) -> str:
    """Settings by the last parts of their paths, as in "n_pi=4, lr=0.0015".

    Args:
        settings: Values by path: "model_config/lstm_cell_size", or a tuple of its parts.
    """
    return ", ".join(f"{_last(path)}={value_in_words(x)}" for path, x in settings.items())


def value_in_words(value: Any) -> str:
    """A value with six digits at most."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def folder_name(trial: Trial) -> str:
    """The folder of a search's trial: its name, and the settings that were drawn for it."""
    settings = settings_in_words(trial.evaluated_params or {}).replace(", ", ",")
    room = max(_LONGEST - len(str(trial)), 0)
    return f"{trial}_" + re.sub(r"[^-=.,\w]+", "_", settings, flags=re.ASCII)[:room]


def _last(path: Any) -> str:
    return str(path[-1] if isinstance(path, tuple) else path.split("/")[-1])
