"""Observations that are augmented, and what the networks give for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ray.rllib.core.columns import Columns

from rllib_ppg.augmentation import NUM_RANDOM, Augmentation
from rllib_ppg.learning.trained_module import Batch, TrainedModule


def draw_random_numbers(row_ids: Iterable[int], T: int, seed: Sequence[int]) -> np.ndarray:
    """The random numbers of all states in rows of T, `[S, NUM_RANDOM]` float32.

    Args:
        row_ids: Ids of this learner's rows among all rows of the phase.
        T: Number of steps in a row.
        seed: The same for all learners, and different for each epoch.
    """
    drawn = [np.empty((0, NUM_RANDOM), np.float32)]
    for row_id in row_ids:
        rng = np.random.default_rng([*seed, int(row_id), 1])
        drawn.append(rng.random((T, NUM_RANDOM), np.float32))
    return np.concatenate(drawn)


def augmented(augmentation: Augmentation, batch: Batch) -> Batch:
    """The batch with augmented observations."""
    changed = {"obs": augmentation(batch["obs"], batch["random"])}
    if "other_obs" in batch:
        changed["other_obs"] = augmentation(batch["other_obs"], batch["other_random"])
    return batch | changed


def augmented_pass(
    module: TrainedModule, batch: Batch, out: Batch, *outputs: str, aux_phase: bool
) -> dict[str, Any]:
    """What the networks give for augmented observations, and distributions to compare.

    Args:
        module: The module in training.
        batch: Columns of the micro-batch.
        out: What the networks gave for it.
        *outputs: What they are to give for the augmented one: action inputs, values or both.
        aux_phase: Whether this is the auxiliary phase.

    Returns:
        `pi_detached` and `augmented_pi`, RLlib's distributions, and `augmented_vf_preds` `[B]`.
    """
    assert module.augmentation is not None
    obs = module.augmentation(batch["obs"], batch["random"])
    changed = module.forward({**batch, "obs": obs}, *outputs, aux_phase=aux_phase)
    found: dict[str, Any] = {}
    if (inputs := Columns.ACTION_DIST_INPUTS) in outputs:
        found["pi_detached"] = module.dist_cls.from_logits(out[inputs].detach())
        found["augmented_pi"] = module.dist_cls.from_logits(changed[inputs])
    if Columns.VF_PREDS in outputs:
        found["augmented_vf_preds"] = changed[Columns.VF_PREDS]
    return found
