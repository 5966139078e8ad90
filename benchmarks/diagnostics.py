"""What a policy network is like when an iteration begins, and what the iteration does to it.

`learning.py` measures the runs of suites that ask for it, and writes
docs/results/SUITE/diagnostics/ENV_ARM_SEED.csv: for each tenth of the run and each iteration of a
phase, the means over that tenth's phases. Arms without auxiliary phases are read as if they had
`ppg`'s.

Shapes: S states of an iteration, F features of the policy's encoder.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn

from rllib_ppg import learner
from rllib_ppg.learning import policy_epochs
from rllib_ppg.learning.saturated_units import SATURATED
from rllib_ppg.learning.trained_module import Batch, TrainedModule

FIELDS = (
    # Of the encoder's last layer, on states of the iteration before it trains on them.
    "feature_norm",
    "effective_rank",
    "saturated",
    "preactivation",
    "log_std",
    # Of the policy's gradient at that moment.
    "gradient_over_adam_first",
    "gradient_over_adam_last",
    "gradient_over_adam_head",
    "cosine_of_halves",
    # What the iteration does: on its own states, by epoch, and on the next one's.
    "approx_kl_first",
    "approx_kl_last",
    "clip_fraction_first",
    "clip_fraction_last",
    "kl_on_new_states",
    "aux_kl_on_new_states",
    "vf_explained_var",
)
COLUMNS = ("tenth", "iteration_of_phase", *FIELDS)


class Diagnostics:
    """The measurements of a run, a dict for each iteration."""

    def __init__(self) -> None:
        self.iterations: list[dict[str, float]] = []
        self._epochs: list[dict[str, float]] = []
        self._around: tuple[nn.Module, nn.Module] | None = None  # the last policy phase

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Within, measures the policy phases of learners in this process."""
        phase, epoch = learner.train_policy_epochs, policy_epochs.train_epoch

        def watched_phase(
            module: TrainedModule, states: Any, segments: Any, spec: Any, epochs: Any, *args: Any
        ) -> dict[str, float]:
            S = sum(map(len, spec.row_ids)) * segments.num_steps
            (batch,) = states.batches([states.drop_masked(np.arange(S))])
            found = self._before(module, batch, epochs)
            self._epochs.clear()
            before = copy.deepcopy(module.module)
            metrics = phase(module, states, segments, spec, epochs, *args)
            self._around = before, copy.deepcopy(module.module)
            for name in ("approx_kl", "clip_fraction"):
                of_epochs = [means[name] for means in self._epochs if name in means]
                found[f"{name}_first"], found[f"{name}_last"] = of_epochs[0], of_epochs[-1]
            self.iterations.append(found)
            return metrics

        def watched_epoch(*args: Any, **kwargs: Any) -> Any:
            result = epoch(*args, **kwargs)
            self._epochs.append(result.means)
            return result

        learner.train_policy_epochs, policy_epochs.train_epoch = watched_phase, watched_epoch
        try:
            yield
        finally:
            learner.train_policy_epochs, policy_epochs.train_epoch = phase, epoch

    def _before(
        self, module: TrainedModule, batch: Batch, epochs: Sequence[Any]
    ) -> dict[str, float]:
        network = module.module
        loss = next(epoch.policy_loss for epoch in epochs if epoch.policy_loss)
        optimizer = next(epoch.optimizer for epoch in epochs if epoch.policy_loss)
        found = of_features(network, batch) | of_gradient(module, batch, loss, optimizer)
        if hasattr(network.pi, "log_std"):
            found["log_std"] = float(network.pi.log_std.detach().mean())
        if self._around:
            before, after = self._around
            for policy in self._around:  # so that only the weights differ
                policy.observation_filter.load_state_dict(network.observation_filter.state_dict())
            found["kl_on_new_states"] = kl(module, before, after, batch)
            found["aux_kl_on_new_states"] = kl(module, after, network, batch)
        V = module.forward(batch, Columns.VF_PREDS)[Columns.VF_PREDS].detach()
        residual = batch["V_targ"] - V
        found["vf_explained_var"] = float(1 - residual.var() / batch["V_targ"].var())
        return found


def of_features(network: nn.Module, batch: Batch) -> dict[str, float]:
    """Of the input and the output of the encoder's last tanh, on a batch of states."""
    *_, before_tanh, _ = (
        layer for layer in network.pi_encoder.modules() if not [*layer.children()]
    )
    seen: list[Tensor] = []
    handle = before_tanh.register_forward_hook(
        lambda _, inputs, output: seen.append(output.detach())
    )
    with torch.no_grad():
        network._forward({Columns.OBS: batch["obs"]})
    handle.remove()
    features = torch.tanh(seen[0])
    share = torch.linalg.svdvals(features - features.mean(0))
    share = share / share.sum()
    return {
        "feature_norm": float(features.norm(dim=1).mean()),
        # The exponential of the singular values' entropy (Roy and Vetterli 2007).
        "effective_rank": float(torch.exp(-(share * torch.log(share + 1e-12)).sum())),
        "saturated": float((features.abs() > SATURATED).float().mean()),
        "preactivation": float(seen[0].square().mean().sqrt()),
    }


def of_gradient(
    module: TrainedModule, batch: Batch, loss: Any, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """Of the gradient of the policy's objective over all states, and over two halves of them."""
    named = [
        (name, p)
        for name, p in module.module.named_parameters()
        if name.startswith(("pi_encoder", "pi."))
    ]
    parameters = [p for _, p in named]

    def gradient(part: slice) -> list[Tensor]:
        some = {name: x[part] for name, x in batch.items()}
        terms = loss(module, some)["policy_loss"]
        return [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(
                parameters,
                torch.autograd.grad(terms.mean(), parameters, allow_unused=True),
                strict=True,
            )
        ]

    S = len(batch["obs"])
    halves = [torch.cat([g.ravel() for g in gradient(slice(i, S, 2))]) for i in (0, 1)]
    found = {"cosine_of_halves": float(torch.cosine_similarity(*halves, dim=0))}
    weights = [i for i, (name, p) in enumerate(named) if p.ndim == 2]
    whole = gradient(slice(None))
    places = {"first": weights[0], "last": weights[-2], "head": weights[-1]}
    for place, i in places.items():
        state = optimizer.state.get(parameters[i])
        if state:
            v = state["exp_avg_sq"] / (1 - optimizer.param_groups[0]["betas"][1] ** state["step"])
            found[f"gradient_over_adam_{place}"] = float(whole[i].norm() / v.sqrt().norm())
    return found


def kl(module: TrainedModule, p: nn.Module, q: nn.Module, batch: Batch) -> float:
    """Mean KL[p, q] of two policies over a batch of states."""
    inputs = Columns.ACTION_DIST_INPUTS
    with torch.no_grad():
        there, here = (
            module.dist_cls.from_logits(module.forward(batch, inputs, module=x)[inputs])
            for x in (p, q)
        )
        return float(there.kl(here).mean())


def summary(
    iterations: Sequence[Mapping[str, float]], n_pi: int, parts: int = 10
) -> list[list[Any]]:
    """Rows of COLUMNS: the mean of each measurement by part of the run and iteration of a phase."""
    grouped: dict[tuple[int, int], list[Mapping[str, float]]] = defaultdict(list)
    for i, found in enumerate(iterations):
        grouped[i * parts // len(iterations), i % n_pi].append(found)
    rows = []
    for (part, position), group in sorted(grouped.items()):
        means = []
        for name in FIELDS:
            values = [found[name] for found in group if name in found]
            means.append(f"{np.mean(values):.4g}" if values else "")
        rows.append([part, position, *means])
    return rows
