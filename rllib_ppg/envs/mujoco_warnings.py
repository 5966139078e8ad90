"""MuJoCo's warnings as log messages: once each, and without a file in the current folder."""

from __future__ import annotations

import importlib
import logging
import sys
from contextlib import suppress
from typing import Any

from gymnasium.envs.registration import EnvSpec
from ray.util import log_once

logger = logging.getLogger(__name__)


def log_mujoco_warnings(env: Any) -> None:
    """Logs what MuJoCo warns of, such as a simulation that is unstable, once in a process.

    By itself it prints each warning, and appends it to MUJOCO_LOG.TXT wherever the process runs.

    Args:
        env: The spec or class of the env that is about to be made. Nothing happens unless it uses
            MuJoCo.
    """
    if isinstance(env, EnvSpec) and "mujoco" in str(env.entry_point):
        with suppress(ImportError):  # making the env says so
            importlib.import_module("mujoco")
    if mujoco := sys.modules.get("mujoco"):
        mujoco.set_mju_user_warning(_log)


def _log(message: str) -> None:
    kind = message.partition(" Time =")[0].strip()
    # What is deprecated are entries of gymnasium's own model files.
    if "is deprecated" not in kind and log_once(f"mujoco: {kind}"):
        logger.warning("MuJoCo: %s (logged once)", kind)
