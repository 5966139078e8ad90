"""One module in training, as a learner holds it: forward passes, and a check that PPG can train it.

Shapes: S states of a phase, B states of a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import astuple
from functools import partial
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.utils.schedules.scheduler import Scheduler
from ray.rllib.utils.typing import ModuleID
from torch import Tensor, nn

from rllib_ppg import ray_private
from rllib_ppg.augmentation import NUM_RANDOM, augmentation_of
from rllib_ppg.aux_losses.aux_loss import AuxLoss
from rllib_ppg.aux_losses.setting import VALUE, build_aux_losses, replay_columns
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.envs.spaces import Actions, num_pixels
from rllib_ppg.learning.batches import Arrays, StateDataset, as_tensor
from rllib_ppg.learning.carried_states import CarriedStates
from rllib_ppg.learning.gradients import GradientBuffer
from rllib_ppg.learning.micro_batches import MicroBatchThreads
from rllib_ppg.learning.proximal_policy import ProximalPolicy
from rllib_ppg.learning.recurrence import Recurrence
from rllib_ppg.learning.sequence_batches import SegmentDataset
from rllib_ppg.losses import clone_KL
from rllib_ppg.networks.recurrent_state import STATE_OUT
from rllib_ppg.networks.rl_module import VF_AUX_PREDS

Batch = dict[str, Tensor]
# Terms of a loss by name, one number for each state, `[B]`.
Terms = dict[str, Tensor]

PRECISIONS = ("float32", "bfloat16")

# Pixels that go through the CNN at once. On a CPU, 32 frames of 64 x 64 in each thread: fewer than
# 16 cost more, and for more than 64 the arrays between layers are too large to be kept
# (`resources/cpu.py`). On a GPU, 1,024 frames: the paper's two networks keep 2.5 GB of them for the
# backward pass. Observations may take half of the free memory, and cards have at least 8 GB.
_CPU_PIXELS, _GPU_PIXELS = 2**17, 2**22
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class TrainedModule:
    """One module in training.

    Args:
        module_id: Its id.
        module: The RLModule, without a wrapper.
        config: The `PPGConfig` of this module.
        device: Where it is.

    Attributes:
        dist_cls: RLlib's class of its action distribution.
        actions: Its actions as arrays.
        aux_losses: The losses of the auxiliary phase, by name.
        needs_next_state: Whether one of them needs the features of the next state.
        needs_false_transitions: Whether one needs transitions that did not happen.
        augmentation: What is done to images; None for nothing.
        augments_policy_phase: Whether the policy phase has DrAC's losses.
        needs_augmented_pass: Whether a loss needs it in a pass of its own.
        needs_presleep_values: Whether one needs V(s) from before the phase.
        recurrence: Passes over sequences; None for modules without a state.
        vf_states: The states of the value network's rows from iteration to iteration; None if it
            has none of its own.
        proximal: The policy to stay close to, an average; None if it is the one that acted.
        advantage_moments: Moments of the advantages so far, older ones with less weight.
        placeholder: One state with every column. A learner without states computes its losses on
            it, to know their terms and the parameters that they reach.
        entropy_schedule: The entropy coefficient by env steps.
        losses: For each loss, by name, its terms and the gradients of the parameters it trains.
        threads: The threads that compute its micro-batches.
        aux: The open auxiliary phase: its spec, states and segments; None outside of one.

    Raises:
        ValueError: PPG can't train the module.
    """

    def __init__(self, module_id: ModuleID, module: Any, config: Any, device: torch.device):
        self.id = module_id
        self.module = module
        self.config = config
        self.device = device
        self.dist_cls = module.get_train_action_dist_cls()
        self.actions = Actions(module.action_space)
        self.aux_losses: dict[str, AuxLoss] = {}
        if config.has_aux_phase:  # the module's own, which have built its heads
            own = getattr(module, "aux_losses", None)
            found = own or build_aux_losses(config.aux_losses)
            # Copies: a user's object may be that of several modules, with a phase each.
            self.aux_losses = {name: copy(loss) for name, loss in found.items()}
        losses = self.aux_losses.values()
        self.needs_next_state = any(loss.next_state for loss in losses)
        self.needs_false_transitions = any(loss.false_transitions for loss in losses)
        self.augmentation = augmentation_of(config.augmentation)
        self.augments_policy_phase = config.augmentation_phase == "both"
        self.needs_augmented_pass = any(loss.augmented for loss in losses)
        self.needs_presleep_values = any(loss.presleep_values for loss in losses)
        self.proximal: ProximalPolicy | None = None
        if config.proximal == "ewma":
            self.proximal = ProximalPolicy(module, config.proximal_decay)
        self.advantage_moments = Moments(0.0, 0.0, 0.0)
        self._precision = "float32"
        side_by_side = num_pixels(module.observation_space) > 0 and device.type == "cpu"
        self._micro_batch_size = config.micro_batch_size
        if self._micro_batch_size == "auto":
            self._micro_batch_size = self._auto_micro_batch_size()
        self.recurrence: Recurrence | None = None
        self.vf_states: CarriedStates | None = None
        if module.is_stateful():
            self.recurrence = Recurrence(module, self._micro_batch_size, device)
            side_by_side = False  # a batch is one micro-batch
            if self.recurrence.has_vf_state:
                self.vf_states = CarriedStates()
        self.threads = MicroBatchThreads(torch.get_num_threads() if side_by_side else 1)
        self.placeholder = self._checked_placeholder()
        self.entropy_schedule = Scheduler(fixed_value_or_schedule=config.entropy_coeff)
        self.losses: dict[str, tuple[list[str], GradientBuffer]] = {}
        self.aux: Any = None

    @property
    def replay_columns(self) -> list[str]:
        """What the replay list holds of each state beside observation and mask."""
        columns = replay_columns(self.aux_losses)
        return columns if self.recurrence is None else [*dict.fromkeys([*columns, "ended"])]

    @property
    def aux_outputs(self) -> list[str]:
        """What the losses of the auxiliary phase need of the networks."""
        outputs = [Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS]
        if VALUE in self.aux_losses:
            outputs.append(VF_AUX_PREDS)
        if self.aux_losses.keys() - {VALUE}:
            outputs.append(Columns.EMBEDDINGS)
        return outputs

    @property
    def _memory_columns(self) -> Iterable[str]:
        return () if self.recurrence is None else self.recurrence.placeholder()

    @property
    def policy_placeholder(self) -> Batch:
        """The placeholder with the columns that a batch of the policy phase has."""
        columns = {"obs", "actions", "logp_old", "A", "V_targ", *self._memory_columns}
        if self.config.vf_phase == "auxiliary":
            columns.add("V")
        if self.augments_policy_phase:
            columns.add("random")
        return {name: x for name, x in self.placeholder.items() if name in columns}

    @property
    def aux_placeholder(self) -> Batch:
        """The placeholder with the columns that a batch of the auxiliary phase has."""
        columns = {"obs", "pi_old", *self.replay_columns, *self._memory_columns}
        if self.augmentation is not None:
            columns |= {"random", "other_random"}
        if self.needs_presleep_values:
            columns.add("V_presleep")
        if self.needs_next_state:
            columns |= {"other_obs", "has_next", "next_at"}
        if self.needs_false_transitions:
            columns |= {"other_obs", "false_next_at", "false_actions"}
        return {name: x for name, x in self.placeholder.items() if name in columns}

    def _auto_micro_batch_size(self) -> int:
        in_a_state = num_pixels(self.module.observation_space)
        if not in_a_state:
            return 2**62
        pixels = _CPU_PIXELS
        if self.device.type != "cpu":
            pixels = _GPU_PIXELS // self._passes_at_once
        return max(1, pixels // in_a_state)

    @property
    def _passes_at_once(self) -> int:
        """Passes of a micro-batch whose arrays are kept for one backward pass."""
        augmented = self.needs_augmented_pass or self.augments_policy_phase
        return 1 + augmented + self.needs_next_state + self.needs_false_transitions

    def _checked_placeholder(self) -> Batch:
        """The placeholder; raises ValueError for a user's module that PPG can't train."""
        module, name = self.module, type(self.module).__name__
        if self.recurrence is not None and self.needs_false_transitions:
            loss = next(n for n, loss in self.aux_losses.items() if loss.false_transitions)
            raise ValueError(
                f"{name} has a memory, and the transitions of aux_losses[{loss!r}] that did not "
                "happen have none: leave that loss out"
            )
        self._check_normalisation()
        outputs = self.aux_outputs
        space = module.observation_space
        obs = torch.from_numpy(np.zeros((1, *space.shape), space.dtype)).to(self.device)
        memory = {} if self.recurrence is None else self.recurrence.placeholder()
        try:
            with self.in_turn_if_stateful(), torch.no_grad():
                out = self.forward({"obs": obs, **memory}, *outputs)
        except RuntimeError as e:  # torch's, about shapes and dtypes
            what = f"{obs.dtype} observations of shape {space.shape}"
            raise ValueError(f"{name} fails with a batch of {what}: {e}") from e
        for column in [*outputs, *([] if self.recurrence is None else [STATE_OUT])]:
            if column not in out:
                raise ValueError(f"{name}.forward_train() returns no {column!r}, which PPG trains")
        pi = self.dist_cls.from_logits(out[Columns.ACTION_DIST_INPUTS])
        for term in (lambda: clone_KL(pi, pi), pi.entropy):
            try:
                term()
            except Exception as e:
                raise ValueError(
                    "PPG needs an action distribution with a KL and an entropy, and "
                    f"{type(pi).__name__} of {name} lacks one of them: {e}"
                ) from e
        actions = np.zeros((1, *self.actions.shape), self.actions.dtype)
        zero = torch.zeros(1, device=self.device)
        return {
            "obs": obs,
            "actions": torch.from_numpy(actions).to(self.device),
            "pi_old": torch.zeros_like(out[Columns.ACTION_DIST_INPUTS]),
            "other_obs": obs if self.recurrence is None else obs[:0],
            **memory,
            **dict.fromkeys(
                ("random", "other_random"), torch.zeros(1, NUM_RANDOM, device=self.device)
            ),
            "has_next": torch.ones(1, dtype=torch.bool, device=self.device),
            **dict.fromkeys(
                ("next_at", "false_next_at", "false_actions"),
                torch.full((1,), int(self.recurrence is None), device=self.device),
            ),
            **dict.fromkeys(("logp_old", "A", "V_targ", "V", "V_presleep", "rewards"), zero),
        }

    def _check_normalisation(self) -> None:
        """Refuses BatchNorm, unless it is frozen in evaluation mode."""
        self.module.train()
        for name, part in self.module.named_modules():
            if isinstance(part, _BATCH_NORMS) and part.training:
                raise ValueError(
                    f"{name} of {type(self.module).__name__} is a {type(part).__name__}, so "
                    "gradients would depend on how states are cut into micro-batches and spread "
                    "over learners: use LayerNorm or GroupNorm, or keep it in evaluation mode"
                )

    @contextmanager
    def in_turn_if_stateful(self) -> Iterator[None]:
        """Watches a pass: if it depends on those before it, all run in turn from now on.

        It does if it draws random numbers (dropout) or writes to buffers (running averages).

        Raises:
            ValueError: It writes to buffers, and there are several learners.
        """
        random, versions = torch.get_rng_state(), self._buffer_versions()
        yield
        writes = versions != self._buffer_versions()
        if writes and self.config.num_learners > 1:
            raise ValueError(
                f"{type(self.module).__name__} changes a buffer in its forward pass, which would "
                "differ between learners: use one learner"
            )
        if writes or not torch.equal(random, torch.get_rng_state()):
            self.threads = MicroBatchThreads(1)

    def _buffer_versions(self) -> list[int]:
        return [buffer._version for buffer in self.module.buffers()]

    # -- Averages over the past, which a checkpoint has ----------------------------------------

    def get_averages(self) -> dict[str, Any]:
        """The averages that the settings keep."""
        averages: dict[str, Any] = {}
        if self.proximal is not None:
            averages["proximal"] = self.proximal.get_state()
        if self.config.adv_ewma_decay:
            averages["advantages"] = astuple(self.advantage_moments)
        return averages

    def set_averages(self, averages: Mapping[str, Any]) -> None:
        """Restores what `get_averages` returned; what is missing begins anew."""
        if self.proximal is not None:
            if "proximal" in averages:
                self.proximal.set_state(averages["proximal"])
            else:
                self.proximal.reset()
        self.advantage_moments = Moments(*averages.get("advantages", (0.0, 0.0, 0.0)))

    # -- Forward passes ------------------------------------------------------------------------

    @contextmanager
    def in_evaluation_mode(self) -> Iterator[None]:
        """Within, dropout is off: for what is a target, as env runners act without it, too."""
        self.module.eval()
        try:
            yield
        finally:
            self.module.train()

    def begin_phase(self, precision: str) -> None:
        """Sets the precision of the phase's forward passes, and training mode."""
        self._precision = precision
        self.module.train()
        if self.recurrence is not None:
            self.recurrence.begin_phase()

    def forward(
        self, batch: Batch, *outputs: str, aux_phase: bool = False, module: Any = None
    ) -> Batch:
        """Computes some of `TRAIN_OUTPUTS` in the phase's precision; returns them in float32.

        Args:
            batch: {"obs": `[B, ...]`}, for recurrent modules also the columns of `Recurrence`;
                others are ignored.
            *outputs: Names of the outputs to compute.
            aux_phase: Whether this is the auxiliary phase (`PPGTorchRLModule`).
            module: The RLModule that computes them; None for the one in training.
        """
        bfloat16 = self._precision == "bfloat16"
        module = self.module if module is None else module
        forward = partial(ray_private.forward_train, module, outputs=outputs, aux_phase=aux_phase)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            out: Batch
            if self.recurrence is None:
                out = forward({Columns.OBS: batch["obs"]})
            else:
                out = self.recurrence.forward(forward, batch, outputs)
        return {name: x.float() for name, x in out.items()} if bfloat16 else out

    @torch.no_grad()
    def proximal_logp(self, batch: Batch) -> Tensor:
        """The log of pi_prox for the actions, `[B]`."""
        assert self.proximal is not None
        inputs = Columns.ACTION_DIST_INPUTS
        out = self.forward(batch, inputs, module=self.proximal.module)
        pi = self.dist_cls.from_logits(out[inputs])
        return pi.logp(self.actions.unpack(batch["actions"]))

    def in_micro_batches(self, obs: np.ndarray, fn: Callable[[Batch], Tensor]) -> list[Tensor]:
        """`fn` of observations `[S, ...]`, a micro-batch at a time and without gradients."""

        @torch.no_grad()  # in each thread
        def without_gradients(part: np.ndarray) -> Tensor:
            return fn({"obs": as_tensor(part).to(self.device)})

        parts = self.micro_batches(obs) or [obs]
        return [*self.threads.map(without_gradients, parts, len(parts))]

    def micro_batches(self, states: np.ndarray) -> list[np.ndarray]:
        """States, or their indices, cut into micro-batches; none if there are no states.

        Those of a recurrent module are one micro-batch. Its encoders take some frames at once.
        """
        size = self._micro_batch_size if self.recurrence is None else max(len(states), 1)
        return [states[i : i + size] for i in range(0, len(states), size)]

    def values(self, obs: np.ndarray) -> np.ndarray:
        """V of observations `[S, ...]`, `[S]`."""
        V = Columns.VF_PREDS
        chunks = self.in_micro_batches(obs, lambda batch: self.forward(batch, V)[V])
        return torch.cat(chunks).cpu().numpy()

    def action_dist_inputs(self, obs: np.ndarray) -> list[Tensor]:
        """Inputs of the action distribution for observations `[S, ...]`, a tensor per chunk."""
        inputs = Columns.ACTION_DIST_INPUTS
        return self.in_micro_batches(obs, lambda batch: self.forward(batch, inputs)[inputs])

    def dataset(
        self,
        obs: Arrays,
        columns: Mapping[str, Tensor],
        valid: np.ndarray,
        row_ids: Sequence[np.ndarray],
        begins: np.ndarray | None = None,
        states: Mapping[str, Tensor] | None = None,
    ) -> StateDataset:
        """A dataset of states, in blocks of rows with these ids.

        Of a recurrent module, with the first states of episodes and the recurrent states at the
        start of each segment (`SegmentDataset`).
        """
        space, T = self.module.observation_space, self.config.rollout_fragment_length
        common = {
            "obs": obs,
            "columns": columns,
            "valid": valid,
            "starts": np.cumsum([0, *(T * len(ids) for ids in row_ids)])[:-1],
            "obs_bytes": math.prod(space.shape) * space.dtype.itemsize,
            "device": self.device,
        }
        if self.recurrence is None:
            return StateDataset(**common)
        assert begins is not None and states is not None
        L = self.config.steps_per_segment
        return SegmentDataset(begins, states, T, L, self.recurrence, **common)
