"""One epoch of gradient steps on one module.

A step sums the losses of its micro-batches, adds up gradients and state counts of all learners in
one collective (two with `target_kl`), and divides. The result is the gradient of the mean over the
whole minibatch, in whatever way it was cut into micro-batches and spread over learners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, tee
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from rllib_ppg.learning.batches import StateDataset
from rllib_ppg.learning.collectives import LearnerCollective
from rllib_ppg.learning.gradients import GradientBuffer, Gradients, parameters_reached
from rllib_ppg.learning.not_finite import not_finite_error
from rllib_ppg.learning.trained_module import Batch, Terms, TrainedModule


@contextmanager
def _unchecked_distributions() -> Iterator[None]:
    """Within, distributions do not check their arguments: the gradients are checked for NaN."""
    checked = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checked)


# The term that `max_kl` bounds: an estimate of how far the policy is from the one that acted.
SAMPLED_KL = "sampled_kl"


class Epoch(NamedTuple):
    """What an epoch did.

    Attributes:
        means: Mean of each term over its states, of all learners.
        minibatches: Number of minibatches before it stopped, or all.
    """

    means: dict[str, float]
    minibatches: int


@_unchecked_distributions()
def train_epoch(
    module: TrainedModule,
    states: StateDataset,
    minibatches: Iterable[np.ndarray],
    loss_fn: Callable[[TrainedModule, Batch], Terms],
    weights: Mapping[str, float],
    optimizer: torch.optim.Optimizer,
    collective: LearnerCollective,
    place: str,
    begin: int = 0,
    max_kl: float | None = None,
    after_step: Callable[[], None] | None = None,
) -> Epoch:
    """Takes one gradient step for each minibatch.

    Args:
        module: The module to train.
        states: This learner's states.
        minibatches: Indices of this learner's states in each minibatch of the epoch.
        loss_fn: Computes the terms of a micro-batch.
        weights: Weights of the terms that are trained; all other terms are metrics.
        optimizer: The Adam that steps.
        collective: The learners of the run.
        place: Name of the epoch in error messages.
        begin: Number of minibatches to leave out.
        max_kl: The epoch stops before a step for whose minibatch the mean of the term
            SAMPLED_KL is above this number, over all learners.
        after_step: Called after each step.

    Returns:
        What it did.

    Raises:
        FloatingPointError: A loss or a gradient is NaN or infinite.
    """
    names, buffer = try_loss(module, loss_fn, weights, module.placeholder)
    trained = torch.tensor([i for i, n in enumerate(names) if weights.get(n)], dtype=torch.long)
    trained = trained.to(module.device)
    totals = torch.zeros(len(names) + 1, dtype=torch.float64, device=module.device)
    optimizer.zero_grad(set_to_none=True)

    def gradients_and_sums(batch: Batch) -> tuple[Gradients | None, Tensor]:
        terms = loss_fn(module, batch)
        loss = _weighted_sum(terms, weights)
        gradients = None
        if module.threads.in_turn:
            buffer.backward(loss)
        else:
            gradients = buffer.gradients_of(loss)
        stacked = torch.stack([terms[name].detach() for name in names])
        return gradients, stacked.sum(1, dtype=torch.float64)

    # The same minibatches twice, since batches are prepared ahead of the steps that use them.
    rest = islice(minibatches, begin, None)
    ahead, indices = tee(states.drop_masked(minibatch) for minibatch in rest)
    batches = states.batches(part for index in ahead for part in module.micro_batches(index))
    done = begin
    for index in indices:
        buffer.attach()
        before = totals if max_kl is None else totals.clone()
        parts = len(module.micro_batches(index))
        computed = module.threads.map(gradients_and_sums, islice(batches, parts), parts)
        for gradients, sums in computed:
            if gradients is not None:
                buffer.add(gradients)
            totals[:-1] += sums
        totals[-1] += len(index)
        if max_kl is not None:
            *of_minibatch, states_of_it = collective.sums(totals - before, module.device)
            if of_minibatch[names.index(SAMPLED_KL)] > max_kl * states_of_it:
                break
        done += 1
        if not buffer.reduce(len(index), totals[trained].sum(), collective):
            continue
        if not buffer.is_finite():
            terms = [names[i] for i in trained]
            raise not_finite_error(
                module, buffer, terms, totals[trained], f"{place}, minibatch {done}"
            )
        buffer.clip(module.config.grad_clip, module.config.grad_clip_by)
        optimizer.step()
        if after_step is not None:
            after_step()
    buffer.detach()
    *over_all, count = collective.sums(totals, module.device)
    means = [value / max(count, 1) for value in over_all]
    return Epoch(dict(zip(names, means, strict=True)), done)


def _weighted_sum(terms: Terms, weights: Mapping[str, float]) -> Tensor:
    # A term of weight 0 is left out: a zero gradient would still move parameters by momentum.
    used = [w * terms[name] for name, w in weights.items() if w and name in terms]
    return torch.stack(used).sum() if used else torch.zeros(())


def try_loss(
    module: TrainedModule,
    loss_fn: Callable[[TrainedModule, Batch], Terms],
    weights: Mapping[str, float],
    placeholder: Batch,
) -> tuple[list[str], GradientBuffer]:
    """Names of a loss's terms, and a buffer for the parameters that it trains.

    The first call computes the loss of one state, the placeholder, to know them.
    """
    kind = loss_fn.__name__
    if kind not in module.losses:
        # Random numbers (dropout's, for example) continue as if this pass had not happened: a
        # learner that resumes from a checkpoint makes it again.
        gpus = [module.device] if module.device.type == "cuda" else []
        with torch.random.fork_rng(gpus), module.in_turn_if_stateful():
            terms = loss_fn(module, placeholder)
        parameters = parameters_reached(
            _weighted_sum(terms, weights), [*module.module.parameters()]
        )
        module.losses[kind] = (list(terms), GradientBuffer(parameters, module.device))
    return module.losses[kind]
