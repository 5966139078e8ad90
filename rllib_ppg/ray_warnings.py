"""Keeps back warnings of Ray that are about Ray's own code, or that nobody can act on."""

from __future__ import annotations

import logging

from ray.util import log_once

# RLlib makes an object of this deprecated class for each module, and warns of it.
_DEPRECATED_IN_RLLIB = "RLModule(config=[RLModuleConfig object])"


def keep_back() -> None:
    """Silences them in this process; repeating it is harmless."""
    log_once(_DEPRECATED_IN_RLLIB)
    logging.getLogger("ray.tune.utils.util").addFilter(_is_not_about_gputil)


def _is_not_about_gputil(record: logging.LogRecord) -> bool:
    # A run needs no GPU monitoring, and without a GPU there is nothing to monitor.
    return "gputil" not in record.getMessage()
