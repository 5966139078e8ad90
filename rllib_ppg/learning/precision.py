"""`aux_precision="auto"`: the learners choose the precision of the auxiliary phase."""

from __future__ import annotations

import logging

import torch

from rllib_ppg.learning.collectives import LearnerCollective

logger = logging.getLogger(__name__)

AUTO = "auto"


def has_native_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether a device computes in bfloat16 itself, instead of emulating it with float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def choose(setting: str, collective: LearnerCollective, device: torch.device) -> str:
    """The precision that all learners use; for "auto", bfloat16 if all have it natively."""
    if setting != AUTO:
        return setting
    (without,) = collective.sums([not has_native_bfloat16(device)], device)
    chosen = "float32" if without else "bfloat16"
    logger.info("aux_precision='auto': the auxiliary phases use %s", chosen)
    return chosen


def warn_if_emulated(precision: str, device: torch.device) -> None:
    """Logs a warning if a device emulates the precision of the auxiliary phases."""
    if precision == "bfloat16" and not has_native_bfloat16(device):
        logger.warning(
            "the auxiliary phases use bfloat16, which this device emulates and which is slow here: "
            "set aux_precision='float32'"
        )
