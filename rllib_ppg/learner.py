"""The learner: PPG's two phases on one shard of the states.

    policy_phase   values, advantages, then E_V and E_pi epochs; returns the replay blocks
    presleep       pi_old for all states of the phase
    aux_epoch      one epoch of L_joint + L_value over all states of the phase

Shapes: n rows of T states; B states of a micro-batch. A gradient step sums the losses of its
micro-batches, adds up gradients and counts of all learners in one collective, and divides: that
is the gradient of the mean over the whole minibatch, however it was cut and dealt out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import tee
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ObjectLostError
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER, Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.schedules.scheduler import Scheduler
from ray.rllib.utils.typing import ResultDict
from torch import Tensor

from rllib_ppg.checkpoint import rng_state
from rllib_ppg.data.minibatches import Segments, interleave_row_ids
from rllib_ppg.data.phase_specs import AuxPhase, PolicyPhase
from rllib_ppg.data.replay import (
    BLOCK_CACHE_BYTES,
    SEGMENT_CACHE_BYTES,
    BlockInfo,
    BlockReader,
    Observations,
    ReplayBlock,
)
from rllib_ppg.data.reward_norm import normalize
from rllib_ppg.data.rollout import Rollout, gae, successor_values
from rllib_ppg.envs.spaces import Actions
from rllib_ppg.learning.batches import (
    Arrays,
    StateDataset,
    as_tensor,
    concatenate_to_device,
    flat,
    prefetch,
)
from rllib_ppg.learning.collectives import LearnerCollective
from rllib_ppg.learning.gradients import GradientBuffer, reached
from rllib_ppg.losses import L_KL, L_aux, L_clip, L_value, clone_KL
from rllib_ppg.networks.rl_module import TRAIN_OUTPUTS, VF_AUX_PREDS
from rllib_ppg.resources.cpu import keep_freed_memory, use_idle_cpu_threads

VALUE_OPTIMIZER = "value"
AUX_OPTIMIZER = "aux"

PRECISIONS = ("float32", "bfloat16")

# Pixels that go through the CNN at once. On a CPU 64 frames of 64 x 64: the arrays of more are too
# large to be kept between layers (`cpu.py`). On a GPU 1,024, of which the paper's two networks keep
# 2.5 GB for the way back: observations may have half of what is free, and cards have 8 GB or more.
_CPU_PIXELS, _GPU_PIXELS = 2**18, 2**22

Batch = dict[str, Tensor]
# Terms by name, one number a state, `[B]`.
Terms = dict[str, Tensor]


class PPGTorchLearner(TorchLearner):
    """Trains one `PPGTorchRLModule` through PPG's phases, which the driver calls one by one."""

    @override(TorchLearner)
    def build(self) -> None:
        """Builds the module, its optimisers and schedules."""
        config = self.config
        self._peers = LearnerCollective(self.distributed, config.collective_timeout_s)
        self._precision = "float32"
        self._save_error: OSError | None = None
        super().build()
        self._ppg_module = self.module[DEFAULT_MODULE_ID].unwrapped()
        self._dist_cls = self._ppg_module.get_train_action_dist_cls()
        self._actions = Actions(self._ppg_module.action_space)
        self._check_module()
        self._entropy_schedule = Scheduler(fixed_value_or_schedule=config.entropy_coeff)
        # By the name of a loss: its terms, and the gradients of the parameters that it trains.
        self._losses: dict[str, tuple[list[str], GradientBuffer]] = {}
        space = self._ppg_module.observation_space
        self._micro_batch_size = config.micro_batch_size
        if self._micro_batch_size == "auto":
            self._micro_batch_size = 2**62
            if len(space.shape) == 3:
                pixels = _CPU_PIXELS if self._device.type == "cpu" else _GPU_PIXELS
                self._micro_batch_size = max(1, pixels // math.prod(space.shape[:2]))
        keep_freed_memory()
        if len(space.shape) == 3:  # small vectors gain nothing
            use_idle_cpu_threads(config, config.num_learners)

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam for the policy phase, another for value epochs if E_V differs, another for aux.

        Each holds all parameters: a step leaves those alone that its loss does not reach, since
        their gradient is None. The auxiliary Adam's moments are kept from phase to phase.
        """
        lrs = {DEFAULT_OPTIMIZER: config.lr}
        if config.e_v != config.e_pi:
            lrs[VALUE_OPTIMIZER] = config.lr
        if config.has_aux_phase:
            lrs[AUX_OPTIMIZER] = config.aux_lr
        params = self.get_parameters(self.module[module_id])
        for name, lr in lrs.items():
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=torch.optim.Adam(params, fused=True),
                params=params,
                lr_or_lr_schedule=lr,
            )

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        # No DDP: the losses of each phase reach other parameters, which DDP refuses or waits for.
        # What remains to be done in its place is to start from equal weights.
        module = self.module[DEFAULT_MODULE_ID]
        for tensor in (*module.parameters(), *module.buffers()):
            self._peers.copy_from_first(tensor.data)

    def set_observation_filter(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Sets the statistics of the networks' observation filter, `[...]` as one observation."""
        filter_ = self._ppg_module.observation_filter
        filter_.mean.copy_(torch.from_numpy(mean))
        filter_.std.copy_(torch.from_numpy(std))
        self._weights_seq_no += 1

    def _check_module(self) -> None:
        """Raises ValueError if the module is none that PPG can train: a user's own may be so."""
        module, name = self._ppg_module, type(self._ppg_module).__name__
        if module.is_stateful():
            raise ValueError(f"PPG does not train recurrent modules, and {name} has a state")
        outputs = TRAIN_OUTPUTS if self.config.has_aux_phase else TRAIN_OUTPUTS[:2]
        space = module.observation_space
        obs = torch.from_numpy(np.zeros((1, *space.shape), space.dtype)).to(self._device)
        try:
            with torch.no_grad():
                out = self._forward({"obs": obs}, *outputs)
        except RuntimeError as e:  # torch's, of shapes and dtypes
            what = f"{obs.dtype} observations of shape {space.shape}"
            raise ValueError(f"{name} fails with a batch of {what}: {e}") from e
        for column in outputs:
            if column not in out:
                raise ValueError(f"{name}.forward_train() returns no {column!r}, which PPG trains")
        pi = self._dist_cls.from_logits(out[Columns.ACTION_DIST_INPUTS])
        for term in (lambda: clone_KL(pi, pi), pi.entropy):
            try:
                term()
            except Exception as e:
                raise ValueError(
                    f"PPG needs an action distribution with a KL and an entropy, and {name}'s, "
                    f"{type(pi).__name__}, has not both: {e}"
                ) from e
        actions = np.zeros((1, *self._actions.shape), self._actions.dtype)
        zero = torch.zeros(1, device=self._device)
        # One state with every column, to see what a loss reaches where there are no states.
        self._placeholder = {
            "obs": obs,
            "actions": torch.from_numpy(actions).to(self._device),
            "pi_old": torch.zeros_like(out[Columns.ACTION_DIST_INPUTS]),
            **dict.fromkeys(("logp_old", "A", "V_targ"), zero),
        }

    @override(Learner)
    def update(self, *args: Any, **kwargs: Any) -> ResultDict:
        """Not for PPG, whose phases are `policy_phase`, `presleep` and `aux_epoch`."""
        raise TypeError("PPGTorchLearner has no update(): call policy_phase() and aux_epoch()")

    @override(Learner)
    def compute_loss_for_module(self, **kwargs: Any) -> Tensor:
        """Not for PPG, whose losses are in `losses.py`."""
        raise TypeError("PPGTorchLearner computes its losses within its phases")

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state, also one that is older than what the learner has."""
        if WEIGHTS_SEQ_NO in state:
            self._weights_seq_no = 0
        super().set_state(state)
        # A checkpoint's moments are in C order, channels-last weights are not, and the fused Adam
        # goes through both as they lie in memory.
        for optimizer in self._named_optimizers.values():
            for p, moments in optimizer.state.items():
                for key, x in moments.items():
                    if isinstance(x, Tensor) and x.shape == p.shape:
                        moments[key] = torch.empty_like(p).copy_(x)

    @override(TorchLearner)
    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        # RLlib would configure all optimisers anew, those loaded already included, for one that
        # only the other settings have: the value Adam of e_v != e_pi, the auxiliary one.
        ours = {name: x for name, x in state.items() if name in self._named_optimizers}
        super()._set_optimizer_state(ours)

    @override(TorchLearner)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Writes the learner's part of a checkpoint; `check_saved` says if that failed.

        RLlib calls it in a way that ends a learner which raises, and does not tell the driver.
        """
        self._save_error = None
        try:
            return str(super().save_to_path(path, **kwargs))
        except OSError as e:
            self._save_error = e
            return str(path)

    def check_saved(self) -> None:
        """Raises what the last `save_to_path` has met, a full disk say."""
        error, self._save_error = self._save_error, None
        if error:
            raise error

    def network_shapes(self) -> dict[str, list[int]]:
        """The shape of each parameter and buffer of the networks, by its name."""
        return {name: list(x.shape) for name, x in self._ppg_module.state_dict().items()}

    def get_exact_state(self) -> dict[str, Any]:
        """What is this learner's own: weights and optimisers are the same in all."""
        return rng_state.get_state()

    def set_exact_state(self, state: dict[str, Any] | None) -> None:
        """Restores what `get_exact_state` returned; None: there was no such learner."""
        if state is not None:
            rng_state.set_state(state)

    def get_recovery_state(self, whole: bool) -> tuple[str, dict[str, Any]]:
        """Its node's id, and as an object of its own a state that `set_recovery_state` takes.

        Args:
            whole: With weights and optimisers, which are the same in all learners.
        """
        state = {"exact": self.get_exact_state()}
        if whole:
            state["learner"] = self.get_state()
        return ray.get_runtime_context().get_node_id(), state

    def set_recovery_state(self, first: dict[str, Any], own: dict[str, Any]) -> None:
        """Restores what `get_recovery_state` returned, of the first learner and of this one."""
        self.set_state(first["learner"])
        self.set_exact_state(own["exact"])

    def set_lr(self, env_steps: int) -> None:
        """Sets the learning rates to what this config says for so many env steps, at least one.

        Schedules round to float32, and what optimisers begin with is not rounded.
        """
        for optimizer, schedule in self._optimizer_lr_schedules.items():
            self._set_optimizer_lr(optimizer, lr=schedule.update(timestep=env_steps))

    # -- Objects that come to this node --------------------------------------------------------

    def fetch(self, rollouts: Sequence[ray.ObjectRef]) -> list[int]:
        """Copies rollouts to this node; returns the indices of those that are lost.

        Those that do not come within `collective_timeout_s` are, too: Ray waits without end for a
        file that is gone.
        """
        refs = list(rollouts)
        timeout = self.config.collective_timeout_s
        _, late = ray.wait(refs, num_returns=len(refs), timeout=timeout)  # side by side
        lost = []
        for i, rollout in enumerate(refs):
            try:
                if rollout in late:
                    lost.append(i)
                else:
                    ray.get(rollout)
            except ObjectLostError:
                lost.append(i)
        return lost

    def keep(self, block: ReplayBlock) -> ReplayBlock:
        """Returns a restored replay block, and with that has it on this node."""
        return block

    # -- Policy phase: Algorithm 1, lines 3 to 6 -----------------------------------------------

    def policy_phase(self, phase: PolicyPhase, *shards: Rollout) -> tuple[Any, ...]:
        """One iteration of the policy phase.

        Args:
            phase: what to do.
            *shards: this learner's rows, one `Rollout` an env runner.

        Returns:
            (metrics, infos of the blocks); if there are blocks, that and each `ReplayBlock`. Call
            it with `.options(num_returns=1 + blocks)`.

        Raises:
            ValueError: A rollout has other row_ids of rows or steps than the driver has counted on.
            FloatingPointError: A gradient is NaN or infinite.
        """
        config = self.config
        for shard, row_ids in zip(shards, phase.rows, strict=True):
            shape = (len(row_ids), config.rollout_fragment_length)
            if shard.valid.shape != shape:
                raise ValueError(
                    f"an env runner has returned a rollout of {shard.valid.shape} envs and steps "
                    f"where {shape} were asked for"
                )
        entropy_coeff = float(self._entropy_schedule.update(timestep=phase.env_steps))
        self._set_phase_precision(config.policy_precision)
        V, A, V_targ = self._advantages(shards, phase.reward_scale)
        columns = {
            "actions": [s.actions for s in shards],
            "logp_old": [s.logp for s in shards],
            "A": A,
            "V_targ": V_targ,
        }
        valid = np.concatenate([flat(s.valid) for s in shards])
        others = {
            name: concatenate_to_device([flat(a) for a in arrays], len(valid), self._device)
            for name, arrays in columns.items()
        }
        states = self._states([flat(s.obs) for s in shards], others, valid, phase.rows)
        T = config.rollout_fragment_length
        segments = Segments(phase.rows, phase.num_rows, T, config.segment_length or T)
        together = config.e_pi == config.e_v
        weights = {
            "policy_loss": 1.0,
            "entropy": -entropy_coeff,
            "vf_loss": config.vf_loss_coeff if together else 1.0,
        }
        if together:
            epochs = [(self.policy_and_value_loss, DEFAULT_OPTIMIZER)] * config.e_pi
        else:
            epochs = [(self.value_loss, VALUE_OPTIMIZER)] * config.e_v
            epochs += [(self.policy_loss, DEFAULT_OPTIMIZER)] * config.e_pi
        metrics: dict[str, float] = {}
        for e, (loss, optimizer) in enumerate(epochs):
            minibatches = segments.epoch((phase.seed, e), config.num_minibatches)
            place = f"policy phase, epoch {e + 1}"
            metrics |= self._epoch(place, states, minibatches, loss, weights, optimizer)

        metrics["vf_explained_var"] = self._explained_variance(V, V_targ, shards)
        metrics["curr_entropy_coeff"] = entropy_coeff
        self._weights_seq_no += 1
        self._log_steps(sum(s.env_steps() for s in shards))
        # RLlib's hook; it moves and logs the learning rates.
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: phase.env_steps}
        self.after_gradient_based_update(timesteps=timesteps)
        result = self._log(metrics)
        infos, blocks = self._replay_blocks(phase, shards, V_targ)
        return ((result, infos), *blocks) if blocks else (result, infos)

    def _replay_blocks(
        self, phase: PolicyPhase, shards: Sequence[Rollout], V_targ: Sequence[np.ndarray]
    ) -> tuple[list[BlockInfo], list[ReplayBlock]]:
        infos, blocks, n = [], [], phase.rows_per_block
        for s, v, rows in zip(shards, V_targ, phase.rows, strict=True):
            for start in range(0, len(s) if n else 0, n or 1):
                part = slice(start, start + n)
                block = ReplayBlock(s.obs[part], v[part], s.valid[part])
                if self.config.replay_compression:
                    block = block.compressed()
                blocks.append(block)
                infos.append(block.info(rows[part]))
        return infos, blocks

    def policy_loss(self, batch: Batch) -> Terms:
        """-L_clip (or -L_KL), the entropy, and what tells how far the policy has moved."""
        return self._policy_terms(batch, self._forward(batch, Columns.ACTION_DIST_INPUTS))

    def value_loss(self, batch: Batch) -> Terms:
        """L_value."""
        V = self._forward(batch, Columns.VF_PREDS)[Columns.VF_PREDS]
        return {"vf_loss": L_value(V, batch["V_targ"], self.config.vf_clip_param)}

    def policy_and_value_loss(self, batch: Batch) -> Terms:
        """Both in one pass, for E_pi = E_V."""
        out = self._forward(batch, Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS)
        vf_loss = L_value(out[Columns.VF_PREDS], batch["V_targ"], self.config.vf_clip_param)
        return self._policy_terms(batch, out) | {"vf_loss": vf_loss}

    def _policy_terms(self, batch: Batch, out: Batch) -> Terms:
        pi = self._dist_cls.from_logits(out[Columns.ACTION_DIST_INPUTS])
        logp = pi.logp(self._actions.unpack(batch["actions"]))
        logp_old, A = batch["logp_old"], batch["A"]
        if self.config.kl_penalty > 0:
            objective = L_KL(logp, logp_old, A, self.config.kl_penalty)
        else:
            objective = L_clip(logp, logp_old, A, self.config.clip_param)
        log_r = (logp - logp_old).detach()
        return {
            "policy_loss": -objective,
            "entropy": pi.entropy(),
            "clip_fraction": ((log_r.exp() - 1.0).abs() > self.config.clip_param).float(),
            "approx_kl": 0.5 * log_r**2,
        }

    def _advantages(
        self, shards: Sequence[Rollout], reward_scale: float | None
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """V, A and V_targ of each shard, `[n, T]`; A normalised over the rows of all learners."""
        Vs, As, V_targs = [], [], []
        for s in shards:
            rewards = s.rewards if reward_scale is None else normalize(s.rewards, reward_scale)
            V = self._values(flat(s.obs)).reshape(s.rewards.shape)
            V_next = successor_values(s, V, self._values(s.last_obs), self._values(s.final_obs))
            done = s.terminated | s.truncated
            A, V_targ = gae(rewards, V, V_next, done, self.config.gamma, self.config.lambda_)
            Vs.append(V)
            As.append(A)
            V_targs.append(V_targ)
        valid = _valid(As, shards)
        count, total = self._all_reduce([valid.size, valid.sum()])
        count = max(count, 1)  # all may be masked
        mean = total / count
        (squares,) = self._all_reduce([np.square(valid - mean).sum()])
        std = np.sqrt(squares / count) + 1e-8
        return Vs, [((A - mean) / std).astype(np.float32) for A in As], V_targs

    def _values(self, obs: np.ndarray) -> np.ndarray:
        """V of `[S, ...]` observations, `[S]`."""
        V = Columns.VF_PREDS
        chunks = self._in_chunks(obs, lambda x: self._forward({"obs": x}, V)[V])
        return torch.cat(chunks).cpu().numpy()

    def _explained_variance(
        self, V: list[np.ndarray], V_targ: list[np.ndarray], shards: Sequence[Rollout]
    ) -> float:
        targ = _valid(V_targ, shards)
        residual = targ - _valid(V, shards)
        return _explained_variance(
            *self._all_reduce(
                [targ.size, targ.sum(), targ @ targ, residual.sum(), residual @ residual]
            )
        )

    # -- Auxiliary phase: Algorithm 1, lines 7 to 11 -------------------------------------------

    def presleep(self, phase: AuxPhase) -> None:
        """Opens the auxiliary phase: computes pi_old for all states, before anything moves."""
        self._set_phase_precision(self.config.aux_precision)
        config = self.config
        T, refs = config.rollout_fragment_length, [ref for ref, _, _ in phase.blocks]
        # A minibatch of whole rows opens each of its blocks once; of parts of rows, almost all.
        whole_rows = config.segment_length in (None, T)
        open_bytes = BLOCK_CACHE_BYTES if whole_rows else SEGMENT_CACHE_BYTES
        reader = BlockReader(refs, open_bytes, config.collective_timeout_s)
        rows = [info.rows for _, _, info in phase.blocks]
        S = T * sum(map(len, rows))
        inputs = Columns.ACTION_DIST_INPUTS
        # In full, although small beside the observations: 4 bytes a logit and a target. A rounded
        # pi_old would be another policy than the one to be kept.
        pi_old = self._placeholder["pi_old"].new_empty((S, *self._placeholder["pi_old"].shape[1:]))
        V_targ, valid = np.empty(S, np.float32), np.empty(S, bool)
        start = 0
        for block in prefetch(reader.__getitem__, range(len(reader))):
            part = slice(start, start + block.V_targ.size)
            V_targ[part], valid[part] = block.V_targ.ravel(), block.valid.ravel()
            chunks = self._in_chunks(
                flat(block.obs), lambda x: self._forward({"obs": x}, inputs)[inputs]
            )
            for chunk in chunks:
                pi_old[start : start + len(chunk)] = chunk
                start += len(chunk)
        others = {"V_targ": torch.from_numpy(V_targ).to(self._device), "pi_old": pi_old}
        self._aux = phase
        self._aux_states = self._states(Observations(reader), others, valid, rows)
        row_ids = interleave_row_ids(phase.rows_per_iteration)
        self._aux_segments = Segments(
            [row_ids[iteration][info.rows] for _, iteration, info in phase.blocks],
            sum(phase.rows_per_iteration),
            T,
            config.segment_length or T,
        )

    def aux_epoch(self, epoch: int) -> ResultDict:
        """One epoch over all states of the phase, mixed over its iterations.

        Args:
            epoch: 0 to E_aux - 1; the last one closes the phase.

        Returns:
            Metrics, as means over the epoch.

        Raises:
            FloatingPointError: A gradient is NaN or infinite.
        """
        config, phase = self.config, self._aux
        num_minibatches = config.num_aux_minibatches * len(phase.rows_per_iteration)
        metrics = self._epoch(
            f"auxiliary phase, epoch {epoch + 1}",
            self._aux_states,
            self._aux_segments.epoch((phase.seed, epoch), num_minibatches),
            self.aux_loss,
            {
                "vf_aux_loss": 1.0,
                "clone_kl": config.beta_clone,
                "vf_loss": config.vf_true_weight,
            },
            AUX_OPTIMIZER,
        )
        metrics["vf_aux_explained_var"] = _explained_variance(
            1.0, *(metrics.pop(name) for name in ("targ", "targ^2", "residual", "residual^2"))
        )
        if epoch == config.e_aux - 1:
            self._weights_seq_no += 1
            del self._aux, self._aux_states, self._aux_segments
        return self._log({f"aux/{name}": value for name, value in metrics.items()})

    def aux_loss(self, batch: Batch) -> Terms:
        """The terms of L_joint and L_value, and the sums that explained variance is made of."""
        out = self._forward(
            batch, Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS, VF_AUX_PREDS, aux_phase=True
        )
        pi_old = self._dist_cls.from_logits(batch["pi_old"])
        pi = self._dist_cls.from_logits(out[Columns.ACTION_DIST_INPUTS])
        V_aux, V_targ = out[VF_AUX_PREDS], batch["V_targ"]
        residual = (V_targ - V_aux).detach()
        return {
            "vf_aux_loss": L_aux(V_aux, V_targ),
            "clone_kl": clone_KL(pi_old, pi),
            "vf_loss": L_value(out[Columns.VF_PREDS], V_targ),
            "targ": V_targ,
            "targ^2": V_targ**2,
            "residual": residual,
            "residual^2": residual**2,
        }

    # -- What both phases are made of ----------------------------------------------------------

    def _epoch(
        self,
        place: str,
        states: StateDataset,
        minibatches: Iterable[np.ndarray],
        loss_fn: Callable[[Batch], Terms],
        weights: dict[str, float],
        optimizer_name: str,
    ) -> dict[str, float]:
        """One gradient step a minibatch.

        Args:
            place: the epoch's name in error messages.
            states: this learner's states.
            minibatches: the row_ids of its states in each minibatch.
            loss_fn: the terms of a micro-batch.
            weights: of the terms that are trained on; all other terms are metrics.
            optimizer_name: the Adam that steps.

        Returns:
            The mean of each term over the epoch's states, of all learners.
        """
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID, optimizer_name)

        def loss_of(terms: Terms) -> Tensor:
            # A term of weight 0 is left out: a zero gradient would move parameters by momentum.
            used = [w * terms[n] for n, w in weights.items() if w and n in terms]
            return torch.stack(used).sum()

        kind = loss_fn.__name__
        if kind not in self._losses:
            # A learner without states still has to know names and parameters.
            # Random row_ids (dropout's, say) are as if it had not been asked: a learner that goes
            # on from a checkpoint asks again.
            gpus = [self._device] if self._device.type == "cuda" else []
            with torch.random.fork_rng(gpus):
                terms = loss_fn(self._placeholder)
            parameters = self.get_parameters(self.module[DEFAULT_MODULE_ID])
            buffer = GradientBuffer(reached(loss_of(terms), parameters), self._device)
            self._losses[kind] = (list(terms), buffer)
        names, buffer = self._losses[kind]

        totals = torch.zeros(len(names) + 1, dtype=torch.float64, device=self._device)
        optimizer.zero_grad(set_to_none=True)
        # Twice the same minibatches: batches are made ahead of the steps that take them.
        ahead, indices = tee(states.drop_masked(minibatch) for minibatch in minibatches)
        batches = states.batches(piece for index in ahead for piece in self._micro_batches(index))
        for m, index in enumerate(indices):
            buffer.attach()
            for _ in self._micro_batches(index):
                terms = loss_fn(next(batches))
                loss = loss_of(terms)
                if loss.requires_grad:  # unless all that it reaches is frozen
                    loss.backward()
                stacked = torch.stack([terms[n].detach() for n in names])
                totals[:-1] += stacked.sum(1, dtype=torch.float64)
            totals[-1] += len(index)
            if not buffer.reduce(len(index), self._peers):
                continue
            self._check_finite(buffer, f"{place}, minibatch {m + 1}")
            self._clip_gradients(buffer)
            optimizer.step()
        buffer.detach()
        *sums, count = self._all_reduce(totals)
        return {name: value / max(count, 1) for name, value in zip(names, sums, strict=True)}

    def _states(
        self,
        obs: Arrays,
        others: Mapping[str, Tensor],
        valid: np.ndarray,
        rows: Sequence[np.ndarray],
    ) -> StateDataset:
        """StateDataset in blocks of these rows."""
        space, T = self._ppg_module.observation_space, self.config.rollout_fragment_length
        starts = np.cumsum([0, *(T * len(r) for r in rows)])[:-1]
        obs_bytes = math.prod(space.shape) * space.dtype.itemsize
        return StateDataset(obs, others, valid, starts, obs_bytes, self._device)

    def _set_phase_precision(self, precision: str) -> None:
        """Begins a phase."""
        self._precision = precision
        self._ppg_module.train()

    def _micro_batches(self, index: np.ndarray) -> Iterator[np.ndarray]:
        """A minibatch's states as micro-batches."""
        return (
            index[i : i + self._micro_batch_size]
            for i in range(0, len(index), self._micro_batch_size)
        )

    def _forward(self, batch: Batch, *outputs: str, aux_phase: bool = False) -> Batch:
        """The networks' `outputs`, in the phase's precision but handed out in full."""
        bfloat16 = self._precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16):
            # Not `forward_train()`, which walks over all submodules to put them into training mode.
            out: Batch = self._ppg_module._forward_train(
                {Columns.OBS: batch["obs"]}, outputs=outputs, aux_phase=aux_phase
            )
        return {name: x.float() for name, x in out.items()} if bfloat16 else out

    @torch.no_grad()
    def _in_chunks(self, obs: np.ndarray, fn: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """`fn` of `[S, ...]` observations, a micro-batch at a time and without gradients."""
        chunks = (
            obs[i : i + self._micro_batch_size]
            for i in range(0, max(len(obs), 1), self._micro_batch_size)
        )
        return [fn(as_tensor(chunk).to(self._device)) for chunk in chunks]

    def _all_reduce(self, values: Sequence[float] | Tensor) -> list[float]:
        """Sums the values over all learners, in float64."""
        total = torch.as_tensor(values, dtype=torch.float64, device=self._device)
        self._peers.sum(total)
        return total.tolist()

    def _check_finite(self, buffer: GradientBuffer, place: str) -> None:
        bad = buffer.not_finite()
        if bad is None:
            return
        names = {p: name for name, p in self._ppg_module.named_parameters()}
        raise FloatingPointError(
            f"NaN or infinite gradient of {names[buffer.parameters[bad]]} in the {place}; "
            "the weights are as they were before this step"
        )

    def _clip_gradients(self, buffer: GradientBuffer) -> None:
        if not self.config.grad_clip:  # 0 is RLlib's other word for None
            return
        by = self.config.grad_clip_by
        # All in one tensor unless each has its own norm: a small network's step is mostly calls.
        grads = buffer.views if by == "norm" else [buffer.gradient]
        clipped = dict(enumerate(grads))
        self._get_clip_function()(clipped, grad_clip=self.config.grad_clip, grad_clip_by=by)
        for i, grad in enumerate(grads):
            if clipped[i] is not grad:
                grad.copy_(clipped[i])

    def _log(self, metrics: dict[str, float]) -> ResultDict:
        for name, value in metrics.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, *name.split("/")), value, window=1)
        return self.metrics.reduce()

    def _log_steps(self, steps: int) -> None:
        for key in (
            (DEFAULT_MODULE_ID, NUM_MODULE_STEPS_TRAINED),
            (ALL_MODULES, NUM_MODULE_STEPS_TRAINED),
            (ALL_MODULES, NUM_ENV_STEPS_TRAINED),
        ):
            self.metrics.log_value(key, steps, reduce="sum")
        for key in (
            (DEFAULT_MODULE_ID, NUM_MODULE_STEPS_TRAINED_LIFETIME),
            (ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME),
            (ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME),
        ):
            self.metrics.log_value(key, steps, reduce="lifetime_sum", with_throughput=True)


def _valid(columns: Sequence[np.ndarray], shards: Sequence[Rollout]) -> np.ndarray:
    """The valid states' row_ids of a column, `[S]` float64."""
    parts = [c[s.valid] for c, s in zip(columns, shards, strict=True)]
    return np.concatenate(parts, dtype=np.float64)


def _explained_variance(
    count: float, targ: float, targ2: float, residual: float, residual2: float
) -> float:
    """1 - Var[residual] / Var[target] from sums over states; 0 for a constant target."""
    count = max(count, 1)
    var_targ = targ2 / count - (targ / count) ** 2
    var_residual = residual2 / count - (residual / count) ** 2
    return 1.0 - var_residual / var_targ if var_targ > 0 else 0.0
