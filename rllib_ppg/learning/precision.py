"""Precision of the networks in the auxiliary phase, where the setting leaves it to the learners."""

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
    native = has_native_bfloat16(device)
    if setting != AUTO:
        if setting == "bfloat16" and not native:
            _warn_of_emulation()
        return setting
    (without,) = collective.sums([not native], device)
    chosen = "float32" if without else "bfloat16"
    logger.info("aux_precision='auto': the auxiliary phases use %s", chosen)
    return chosen


def restored(setting: str, saved: str, chosen: str, device: torch.device) -> str:
    """The precision of a run that continues from a checkpoint.

    Args:
        setting: The run's `aux_precision`.
        saved: Precision of the run that wrote the checkpoint.
        chosen: What `choose` returned for this run.
        device: The learner's device.
    """
    if setting != AUTO:
        return chosen
    if saved == "bfloat16" and not has_native_bfloat16(device):
        _warn_of_emulation()
    return saved


def _warn_of_emulation() -> None:
    logger.warning(
        "the auxiliary phases use bfloat16, which this device emulates and which is slow here: set "
        "aux_precision='float32'"
    )
