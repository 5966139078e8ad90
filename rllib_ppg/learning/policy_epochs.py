"""The epochs of a policy phase, and where they stop for `target_kl`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rllib_ppg.data.minibatches import Segments
from rllib_ppg.data.phase_specs import PolicyPhase
from rllib_ppg.learning.augmented_pass import draw_random_numbers
from rllib_ppg.learning.batches import StateDataset
from rllib_ppg.learning.collectives import LearnerCollective
from rllib_ppg.learning.epoch import SAMPLED_KL, Epoch, train_epoch, try_loss
from rllib_ppg.learning.trained_module import Batch, Terms, TrainedModule

Loss = Callable[[TrainedModule, Batch], Terms]

# The epochs stop at this many times `target_kl`, as in Stable-Baselines3.
_TARGET_KL_FACTOR = 1.5
# `target_kl="auto"` for each dimension of the actions: a policy's KL is the sum of theirs.
_AUTO_TARGET_KL = 0.01


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
        FloatingPointError: A loss or a gradient is NaN or infinite.
    """
    config = module.config
    options: dict[str, Any] = {}
    if config.target_kl is not None:
        options["max_kl"] = _TARGET_KL_FACTOR * _target_kl(module)
    if module.proximal is not None:
        module.proximal.begin()
        options["after_step"] = module.proximal.update

    def train(e: int, loss: Loss, **options: Any) -> Epoch:
        minibatches = segments.epoch((phase.seed, e), config.num_minibatches)
        place = f"policy phase, epoch {e + 1}"
        adam = epochs[e].optimizer
        return train_epoch(
            module, states, minibatches, loss, weights, adam, collective, place, **options
        )

    row_ids = [row_id for ids in phase.row_ids for row_id in ids]
    metrics: dict[str, float] = {}
    policy_steps, stopped = 0, False
    for e, (policy_loss, value_loss, _) in enumerate(epochs):
        if module.augments_policy_phase:
            random = draw_random_numbers(row_ids, segments.num_steps, (phase.seed, e))
            states.set_column("random", random)
        done = 0
        if policy_loss and not stopped:
            means, done = train(e, policy_loss, **options)
            metrics |= means
            policy_steps += done
            stopped = done < config.num_minibatches
        if value_loss and (stopped or not policy_loss):
            metrics |= train(e, value_loss, begin=done).means
    if config.target_kl is not None:
        metrics["policy_epochs_done"] = policy_steps / config.num_minibatches
        metrics["target_kl_stopped"] = float(stopped)
    return metrics


def _target_kl(module: TrainedModule) -> float:
    """`target_kl` as a number, for the module's actions."""
    if module.config.target_kl == "auto":
        return _AUTO_TARGET_KL * math.prod(module.actions.shape)
    return module.config.target_kl


def try_losses(
    module: TrainedModule, epochs: Iterable[PlannedEpoch], weights: Mapping[str, float]
) -> None:
    """Computes the losses of the epochs for one state, so that wrong ones are found at once.

    Raises:
        ValueError: `target_kl` is set, and a loss of the policy lacks the term it looks at.
    """
    for policy_loss, value_loss, _ in epochs:
        if value_loss:
            try_loss(module, value_loss, weights, module.policy_placeholder)
        if policy_loss:
            terms, _ = try_loss(module, policy_loss, weights, module.policy_placeholder)
            if module.config.target_kl is not None and SAMPLED_KL not in terms:
                raise ValueError(
                    f"target_kl needs the term {SAMPLED_KL!r}, which {policy_loss.__name__}() does "
                    "not return"
                )
