"""The epochs of a policy phase, and where they stop for `target_kl`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch

from rllib_ppg.data.minibatches import Segments
from rllib_ppg.data.phase_specs import PolicyPhase
from rllib_ppg.learning.augmented_pass import draw_random_numbers
from rllib_ppg.learning.batches import StateDataset
from rllib_ppg.learning.collectives import LearnerCollective
from rllib_ppg.learning.epoch import Epoch, train_epoch
from rllib_ppg.learning.trained_module import Batch, Terms, TrainedModule

Loss = Callable[[TrainedModule, Batch], Terms]

# The epochs stop at this many times `target_kl`, as in Stable-Baselines3.
_TARGET_KL_FACTOR = 1.5


class PlannedEpoch(NamedTuple):
    """What an epoch trains.

    Attributes:
        policy_loss: The loss that trains the policy; None in a value epoch.
        value_loss: What is trained without the policy, in a value epoch and once the policy's steps
            have stopped; None for nothing.
        optimizer: The Adam that steps.
    """

    policy_loss: Loss | None
    value_loss: Loss | None
    optimizer: torch.optim.Optimizer


def train_policy_epochs(
    module: TrainedModule,
    states: StateDataset,
    segments: Segments,
    phase: PolicyPhase,
    epochs: Sequence[PlannedEpoch],
    weights: Mapping[str, float],
    collective: LearnerCollective,
) -> dict[str, float]:
    """Trains on the states of an iteration.

    Args:
        module: The module to train.
        states: This learner's states.
        segments: How they are cut into minibatches.
        phase: What the driver said about the iteration.
        epochs: The epochs, in their order.
        weights: Weights of the terms that are trained.
        collective: The learners of the run.

    Returns:
        Metrics: for each term its mean over the last epoch that had it.

    Raises:
        FloatingPointError: A gradient is NaN or infinite.
    """
    config = module.config

    def train(
        e: int, loss: Loss, optimizer: torch.optim.Optimizer, begin: int = 0, **options: Any
    ) -> Epoch:
        minibatches = segments.epoch((phase.seed, e), config.num_minibatches)
        rest = islice(minibatches, begin, None)
        place = f"policy phase, epoch {e + 1}"
        return train_epoch(
            module, states, rest, loss, weights, optimizer, collective, place, **options
        )

    options: dict[str, Any] = {}
    if config.target_kl is not None:
        options["max_kl"] = _TARGET_KL_FACTOR * config.target_kl
    if module.proximal is not None:
        options["after_step"] = module.proximal.update
    metrics: dict[str, float] = {}
    policy_steps, stopped = 0, False
    for e, (policy_loss, value_loss, optimizer) in enumerate(epochs):
        if module.augments_policy_phase:
            row_ids = [row_id for ids in phase.row_ids for row_id in ids]
            random = draw_random_numbers(row_ids, segments.num_steps, (phase.seed, e))
            states.set_column("random", random)
        done = 0
        if policy_loss and not stopped:
            means, done = train(e, policy_loss, optimizer, **options)
            metrics |= means
            policy_steps += done
            stopped = done < config.num_minibatches
        if value_loss and (stopped or not policy_loss):
            metrics |= train(e, value_loss, optimizer, begin=done).means
    if config.target_kl is not None:
        metrics["policy_epochs_done"] = policy_steps / config.num_minibatches
        metrics["target_kl_stopped"] = float(stopped)
    return metrics
