"""What the hardware can do: the paper's passes as bare torch loops, with nothing around them.

No Ray, no driver, no metrics, no checks; data in memory, channels-last, in micro-batches of the
best size, on a CPU one in each thread. This is what rllib_ppg's own loops are held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_ppg.learning.micro_batches import MicroBatchThreads
from rllib_ppg.networks.impala_cnn import ImpalaCNN

ACTIONS = 15


class Networks(nn.Module):
    """The dual architecture's two networks with the paper's encoder."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 32), dense: int = 256):
        super().__init__()
        self.pi_encoder = ImpalaCNN((64, 64, 3), channels, dense)
        self.vf_encoder = ImpalaCNN((64, 64, 3), channels, dense)
        self.pi, self.vf_aux = nn.Linear(dense, ACTIONS), nn.Linear(dense, 1)
        self.vf = nn.Linear(dense, 1)


class Bare:
    """The two phases on `[S, 64, 64, 3]` uint8 states, which lie on the device.

    Args:
        device: of everything.
        frames: states of a micro-batch.
    """

    def __init__(self, device: str = "cpu", frames: int = 32):
        self.device, self.frames = device, frames
        self.net = Networks().to(device)
        self.parameters = list(self.net.parameters())
        self.adam = torch.optim.Adam(self.parameters, lr=5e-4)
        self.threads = MicroBatchThreads(torch.get_num_threads() if device == "cpu" else 1)

    def _map(self, fn: Callable[[Tensor], Any], states: Tensor) -> Iterator[Any]:
        parts = states.split(self.frames)
        return self.threads.map(fn, parts, len(parts))

    def _outputs(self, fn: Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
        return torch.cat([*self._map(torch.no_grad()(fn), obs)])

    def values(self, obs: Tensor) -> Tensor:
        """V of all states, without gradients."""
        return self._outputs(lambda x: self.net.vf(self.net.vf_encoder(x)), obs)

    def logits(self, obs: Tensor) -> Tensor:
        """The policy's logits of all states, without gradients."""
        return self._outputs(lambda x: self.net.pi(self.net.pi_encoder(x)), obs)

    def _step(self, index: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
        """A gradient step on a minibatch; `loss` is the sum over a micro-batch's states."""

        def gradients(part: Tensor) -> tuple[Tensor | None, ...]:
            mean = loss(part) / len(index)
            return torch.autograd.grad(mean, self.parameters, allow_unused=True)

        self.adam.zero_grad()
        for grads in self._map(gradients, index):
            for p, grad in zip(self.parameters, grads, strict=True):
                if grad is not None:
                    p.grad = grad if p.grad is None else p.grad.add_(grad)
        self.adam.step()

    def policy_epoch(self, obs: Tensor, minibatches: Iterable[Tensor]) -> None:
        """One epoch of L_clip, entropy and L_value over the minibatches, index tensors."""

        def loss(part: Tensor) -> Tensor:
            x = obs[part]
            logp = self.net.pi(self.net.pi_encoder(x)).log_softmax(-1)
            ratio = (logp[:, 0] - logp[:, 0].detach()).exp()
            L_clip = torch.min(ratio, ratio.clamp(0.8, 1.2)).sum()
            entropy = -(logp.exp() * logp).sum()
            L_value = 0.5 * self.net.vf(self.net.vf_encoder(x)).square().sum()
            return L_value - L_clip - 0.01 * entropy

        for index in minibatches:
            self._step(index, loss)

    def aux_epoch(self, obs: Tensor, pi_old: Tensor, minibatches: Iterable[Tensor]) -> None:
        """One epoch of L_joint and L_value over the minibatches, index tensors."""

        def loss(part: Tensor) -> Tensor:
            x, old = obs[part], pi_old[part].log_softmax(-1)
            features = self.net.pi_encoder(x)
            logp = self.net.pi(features).log_softmax(-1)
            KL = F.kl_div(logp, old, reduction="sum", log_target=True)
            L_aux = 0.5 * self.net.vf_aux(features).square().sum()
            L_value = 0.5 * self.net.vf(self.net.vf_encoder(x)).square().sum()
            return L_aux + KL + L_value

        for index in minibatches:
            self._step(index, loss)

    def policy_phase(self, obs: Tensor, num_minibatches: int, T: int) -> None:
        """The passes of an iteration's policy phase, E_pi = E_V = 1."""
        self.values(obs)
        self.policy_epoch(obs, shuffled(len(obs), num_minibatches, T, self.device))

    def aux_phase(self, obs: Tensor, num_minibatches: int, T: int, e_aux: int) -> None:
        """The passes of an auxiliary phase."""
        pi_old = self.logits(obs)
        for _ in range(e_aux):
            self.aux_epoch(obs, pi_old, shuffled(len(obs), num_minibatches, T, self.device))

    @torch.no_grad()
    def sample(self, env: object, obs: np.ndarray, T: int) -> np.ndarray:
        """T steps of a vector env: forward pass, draw, step; nothing is kept."""
        for _ in range(T):
            x = torch.from_numpy(obs).to(self.device)
            actions = self.net.pi(self.net.pi_encoder(x)).softmax(-1).multinomial(1)
            obs = env.step(actions.squeeze(-1).cpu().numpy())[0]  # type: ignore[attr-defined]
        return obs


def shuffled(S: int, num_minibatches: int, T: int, device: str) -> list[Tensor]:
    """Minibatches of whole rows of T states, as index tensors."""
    rows = torch.randperm(S // T).chunk(num_minibatches)
    return [(r.sort()[0][:, None] * T + torch.arange(T)).flatten().to(device) for r in rows]
