"""The learner: the two phases of PPG on one shard of the states.

    policy_phase   values and advantages, then E_V and E_pi epochs; returns the replay blocks
    presleep       pi_old of all states of the phase
    aux_epoch      one epoch of L_joint and L_value over all states of the phase

Shapes: n rows of T states, S states of a phase, B states of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.typing import ModuleID, ResultDict

from rllib_ppg.aux_losses.setting import VALUE
from rllib_ppg.data.advantages import gae, successor_values
from rllib_ppg.data.minibatches import Segments, interleave_row_ids
from rllib_ppg.data.phase_specs import AuxPhase, PolicyPhase
from rllib_ppg.data.replay import BlockInfo, ReplayBlock
from rllib_ppg.data.reward_norm import normalize
from rllib_ppg.data.rollout import Rollout, as_states
from rllib_ppg.learning.aux_terms import augmented, aux_terms, weights_of
from rllib_ppg.learning.base_learner import AUX_OPTIMIZER, VALUE_OPTIMIZER, BaseLearner
from rllib_ppg.learning.batches import concatenate_to_device, prefetch
from rllib_ppg.learning.epoch import train_epoch, try_loss
from rllib_ppg.learning.open_aux_phase import OpenAuxPhase, next_states
from rllib_ppg.learning.precision import AUTO
from rllib_ppg.learning.replay_reader import (
    BLOCK_CACHE_BYTES,
    SEGMENT_CACHE_BYTES,
    BlockReader,
    Observations,
)
from rllib_ppg.learning.trained_module import Batch, Terms, TrainedModule
from rllib_ppg.losses import L_KL, L_clip, L_value, clone_KL
from rllib_ppg.networks.rl_module import VF_AUX_PREDS


class PPGTorchLearner(BaseLearner):
    """Trains modules through PPG's phases, which the driver calls one by one.

    To change a loss, override the method that computes its terms: `policy_loss`, `value_loss`,
    `policy_and_value_loss` or `aux_loss`, and set `.training(learner_class=...)`.
    """

    @override(BaseLearner)
    def build(self) -> None:
        super().build()
        for module in self.trained.values():  # a wrong loss is not to be found after hours
            if module.config.has_aux_phase:
                try_loss(module, self.aux_loss, _aux_weights(module), module.aux_placeholder)

    # -- Policy phase: Algorithm 1, lines 2 to 6 -----------------------------------------------

    def policy_phase(self, phase: PolicyPhase, *shards: Rollout) -> tuple[Any, ...]:
        """One iteration of the policy phase.

        Args:
            phase: What to do.
            *shards: This learner's rows, one `Rollout` for each env runner.

        Returns:
            (metrics, infos of the blocks), followed by each `ReplayBlock` if there are any; without
            blocks just (metrics, infos). Call it with `.options(num_returns=1 + blocks)`.

        Raises:
            ValueError: A rollout has other numbers of rows or steps than the driver counted on.
            FloatingPointError: A gradient is NaN or infinite.
        """
        module = self.trained[phase.module_id]
        config = module.config
        T = config.rollout_fragment_length
        _check_shapes(shards, phase, T)
        entropy_coeff = float(module.entropy_schedule.update(timestep=phase.env_steps))
        module.begin_phase(config.policy_precision)

        rewards = [_scaled_rewards(s, phase.reward_scale) for s in shards]
        V, A, V_targ = self._advantages(module, shards, rewards)
        columns = {
            "actions": [s.actions for s in shards],
            "logp_old": [s.logp for s in shards],
            "A": A,
            "V_targ": V_targ,
        }
        valid = np.concatenate([as_states(s.valid) for s in shards])
        tensors = {
            name: concatenate_to_device([as_states(a) for a in arrays], len(valid), module.device)
            for name, arrays in columns.items()
        }
        states = module.dataset([as_states(s.obs) for s in shards], tensors, valid, phase.row_ids)
        segments = Segments(phase.row_ids, phase.num_rows, T, config.segment_length or T)

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
            metrics |= train_epoch(
                module,
                states,
                segments.epoch((phase.seed, e), config.num_minibatches),
                loss,
                weights,
                self.get_optimizer(module.id, optimizer),
                self.collective,
                place=f"policy phase, epoch {e + 1}",
            )

        metrics["vf_explained_var"] = self._explained_variance(module, V, V_targ, shards)
        metrics["curr_entropy_coeff"] = entropy_coeff
        self._weights_seq_no += 1
        self._log_steps(module.id, sum(s.env_steps() for s in shards))
        # RLlib's hook, which moves and logs the learning rates.
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: phase.env_steps}
        self.after_gradient_based_update(timesteps=timesteps)
        result = self._reduced_metrics(module.id, metrics)
        of_states = {
            **columns,
            "V": V,
            "rewards": rewards,
            "ended": [s.terminated | s.truncated for s in shards],
        }
        stored = {name: of_states[name] for name in module.replay_columns}
        infos, blocks = _replay_blocks(
            shards, stored, phase, compress=config.replay_compression is not None
        )
        return ((result, infos), *blocks) if blocks else (result, infos)

    def policy_loss(self, module: TrainedModule, batch: Batch) -> Terms:
        """-L_clip (-L_KL with a KL penalty) and the entropy, for the policy epochs.

        Args:
            module: The module in training.
            batch: Columns of a micro-batch: `obs`, `actions`, `logp_old`, `A`, `V_targ`.

        Returns:
            Terms `[B]`: `policy_loss`, `entropy`, and the metrics `clip_fraction`, `approx_kl`.
        """
        return self._policy_terms(module, batch, module.forward(batch, Columns.ACTION_DIST_INPUTS))

    def value_loss(self, module: TrainedModule, batch: Batch) -> Terms:
        """L_value, for the value epochs; arguments as in `policy_loss`, the term is `vf_loss`."""
        V = module.forward(batch, Columns.VF_PREDS)[Columns.VF_PREDS]
        return {"vf_loss": L_value(V, batch["V_targ"], module.config.vf_clip_param)}

    def policy_and_value_loss(self, module: TrainedModule, batch: Batch) -> Terms:
        """The terms of `policy_loss` and `value_loss` from one pass, for E_pi = E_V."""
        out = module.forward(batch, Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS)
        vf_loss = L_value(out[Columns.VF_PREDS], batch["V_targ"], module.config.vf_clip_param)
        return self._policy_terms(module, batch, out) | {"vf_loss": vf_loss}

    def _policy_terms(self, module: TrainedModule, batch: Batch, out: Batch) -> Terms:
        config = module.config
        pi = module.dist_cls.from_logits(out[Columns.ACTION_DIST_INPUTS])
        logp = pi.logp(module.actions.unpack(batch["actions"]))
        logp_old, A = batch["logp_old"], batch["A"]
        if config.kl_penalty > 0:
            objective = L_KL(logp, logp_old, A, config.kl_penalty)
        else:
            objective = L_clip(logp, logp_old, A, config.clip_param)
        log_r = (logp - logp_old).detach()
        return {
            "policy_loss": -objective,
            "entropy": pi.entropy(),
            "clip_fraction": ((log_r.exp() - 1.0).abs() > config.clip_param).float(),
            "approx_kl": 0.5 * log_r**2,
        }

    def _advantages(
        self, module: TrainedModule, shards: Sequence[Rollout], rewards: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """V, A and V_targ of each shard, `[n, T]`; A is normalised over all learners' rows."""
        gamma, lambda_ = module.config.gamma, module.config.lambda_
        vf_lambda = module.config.vf_lambda
        Vs, As, V_targs = [], [], []
        for s, r in zip(shards, rewards, strict=True):
            V = module.values(as_states(s.obs)).reshape(r.shape)
            V_next = successor_values(s, V, module.values(s.last_obs), module.values(s.final_obs))
            done = s.terminated | s.truncated
            A, V_targ = gae(r, V, V_next, done, gamma, lambda_)
            if vf_lambda is not None:
                _, V_targ = gae(r, V, V_next, done, gamma, vf_lambda)
            Vs.append(V)
            As.append(A)
            V_targs.append(V_targ)
        valid = _valid(As, shards)
        count, total = self.collective.sums([valid.size, valid.sum()], module.device)
        count = max(count, 1)  # all states may be masked
        mean = total / count
        (squares,) = self.collective.sums([np.square(valid - mean).sum()], module.device)
        std = np.sqrt(squares / count) + 1e-8
        return Vs, [((A - mean) / std).astype(np.float32) for A in As], V_targs

    def _explained_variance(
        self,
        module: TrainedModule,
        V: list[np.ndarray],
        V_targ: list[np.ndarray],
        shards: Sequence[Rollout],
    ) -> float:
        targ = _valid(V_targ, shards)
        residual = targ - _valid(V, shards)
        sums = [targ.size, targ.sum(), targ @ targ, residual.sum(), residual @ residual]
        return _explained_variance(*self.collective.sums(sums, module.device))

    # -- Auxiliary phase: Algorithm 1, lines 7 to 11 -------------------------------------------

    def presleep(self, phase: AuxPhase) -> None:
        """Opens the auxiliary phase: computes pi_old of all states, before anything moves."""
        module = self.trained[phase.module_id]
        config = module.config
        module.begin_phase(self.aux_precision)
        T = config.rollout_fragment_length
        L = config.segment_length or T
        # A minibatch of whole rows opens each of its blocks once; one of segments opens almost all.
        cache_bytes = BLOCK_CACHE_BYTES if L == T else SEGMENT_CACHE_BYTES
        reader = BlockReader(
            [ref for ref, _, _ in phase.blocks], cache_bytes, config.collective_timeout_s
        )
        block_rows = [info.rows for _, _, info in phase.blocks]
        S = T * sum(map(len, block_rows))
        # Stored in float32, which is little next to the observations: a rounded pi_old would be a
        # different policy from the one to keep.
        placeholder = module.placeholder["pi_old"]
        pi_old = placeholder.new_empty((S, *placeholder.shape[1:]))
        valid = np.empty(S, bool)
        columns: dict[str, np.ndarray] = {}
        V_presleep: list[np.ndarray] = [np.empty(0, np.float32)]
        start = 0
        for block in prefetch(reader.__getitem__, range(len(reader))):
            part = slice(start, start + block.valid.size)
            valid[part] = block.valid.ravel()
            for name in module.replay_columns:
                column = as_states(block.columns[name])
                if name not in columns:
                    columns[name] = np.empty((S, *column.shape[1:]), column.dtype)
                columns[name][part] = column
            for chunk in module.action_dist_inputs(as_states(block.obs)):
                pi_old[start : start + len(chunk)] = chunk
                start += len(chunk)
            if module.needs_presleep_values:
                V_presleep.append(module.values(as_states(block.obs)))
        ended = columns.pop("ended", None)
        tensors = {name: torch.from_numpy(x).to(module.device) for name, x in columns.items()}
        tensors["pi_old"] = pi_old
        if module.needs_presleep_values:
            tensors["V_presleep"] = torch.from_numpy(np.concatenate(V_presleep)).to(module.device)
        row_ids = interleave_row_ids(phase.rows_per_iteration)
        rows = [row_ids[iteration][info.rows] for _, iteration, info in phase.blocks]
        actions = columns.get("actions")
        segments = Segments(rows, sum(phase.rows_per_iteration), T, L)
        states = module.dataset(Observations(reader), tensors, valid, block_rows)
        if ended is not None:
            states.others["next"] = next_states(ended, valid, T)
        module.aux = OpenAuxPhase(
            phase,
            states,
            segments,
            np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64),
            None if actions is None else actions.reshape(-1, T, *actions.shape[1:]),
        )

    def aux_epoch(self, module_id: ModuleID, epoch: int) -> ResultDict:
        """One epoch over all states of the phase, mixed over its iterations.

        Args:
            module_id: Module whose auxiliary phase is open.
            epoch: 0 to E_aux - 1; the last one closes the phase.

        Returns:
            Metrics, as means over the epoch.

        Raises:
            FloatingPointError: A gradient is NaN or infinite.
        """
        module = self.trained[module_id]
        config, phase = module.config, module.aux
        if module.augmentation is not None:
            phase.draw_augmentation(epoch)
        if module.needs_false_transitions:
            phase.draw_false_transitions(int(module.module.action_space.n), epoch)
        num_minibatches = config.num_aux_minibatches * len(phase.spec.rows_per_iteration)
        metrics = train_epoch(
            module,
            phase.states,
            phase.segments.epoch((phase.spec.seed, epoch), num_minibatches),
            self.aux_loss,
            _aux_weights(module),
            self.get_optimizer(module_id, AUX_OPTIMIZER),
            self.collective,
            place=f"auxiliary phase, epoch {epoch + 1}",
        )
        if VALUE in module.aux_losses:
            sums = [metrics.pop(name) for name in ("targ", "targ^2", "residual", "residual^2")]
            metrics["vf_aux_explained_var"] = _explained_variance(1.0, *sums)
        if config.aux_precision == AUTO:
            metrics["bfloat16"] = float(self.aux_precision == "bfloat16")
        if epoch == config.e_aux - 1:
            self._weights_seq_no += 1
            module.aux = None
        return self._reduced_metrics(module_id, {f"aux/{k}": v for k, v in metrics.items()})

    def aux_loss(self, module: TrainedModule, batch: Batch) -> Terms:
        """L_joint = sum of the auxiliary losses + beta_clone KL, and L_value.

        Args:
            module: The module in training.
            batch: Columns of a micro-batch: `obs`, `V_targ`, `pi_old`, and those that the
                auxiliary losses need.

        Returns:
            Terms `[B]`: `vf_aux_loss` and `NAME_loss` of the others, `clone_kl`, `vf_loss`, and the
            sums that the explained variance is computed from.
        """
        if module.augmentation is not None and not module.needs_augmented_pass:
            batch = augmented(module.augmentation, batch)
        out = module.forward(batch, *module.aux_outputs, aux_phase=True)
        pi_old = module.dist_cls.from_logits(batch["pi_old"])
        pi = module.dist_cls.from_logits(out[Columns.ACTION_DIST_INPUTS])
        V_targ = batch["V_targ"]
        terms = {
            **aux_terms(module, batch, out),
            "clone_kl": clone_KL(pi_old, pi),
            "vf_loss": L_value(out[Columns.VF_PREDS], V_targ),
        }
        if VALUE in module.aux_losses:
            residual = (V_targ - out[VF_AUX_PREDS]).detach()
            terms |= {"targ": V_targ, "targ^2": V_targ**2}
            terms |= {"residual": residual, "residual^2": residual**2}
        return terms


def _scaled_rewards(shard: Rollout, scale: float | None) -> np.ndarray:
    """The rewards that are trained on, `[n, T]`."""
    return shard.rewards if scale is None else normalize(shard.rewards, scale)


def _aux_weights(module: TrainedModule) -> dict[str, float]:
    """The weights of the terms that the auxiliary phase trains."""
    return {
        **weights_of(module),
        "clone_kl": module.config.beta_clone,
        "vf_loss": module.config.vf_true_weight,
    }


def _check_shapes(shards: Sequence[Rollout], phase: PolicyPhase, T: int) -> None:
    for shard, row_ids in zip(shards, phase.row_ids, strict=True):
        shape = (len(row_ids), T)
        if shard.valid.shape != shape:
            raise ValueError(
                f"an env runner returned a rollout of {shard.valid.shape} envs and steps instead "
                f"of {shape}"
            )


def _replay_blocks(
    shards: Sequence[Rollout],
    columns: Mapping[str, Sequence[np.ndarray]],
    phase: PolicyPhase,
    compress: bool,
) -> tuple[list[BlockInfo], list[ReplayBlock]]:
    """Cuts the shards into replay blocks; `columns` has one array `[n, T, ...]` for each shard."""
    infos, blocks, n = [], [], phase.rows_per_block
    for k, (shard, row_ids) in enumerate(zip(shards, phase.row_ids, strict=True)):
        rows = ReplayBlock(shard.obs, shard.valid, {name: c[k] for name, c in columns.items()})
        for start in range(0, len(shard) if n else 0, n or 1):
            part = slice(start, start + n)
            block = rows.select_rows(part)
            if compress:
                block = block.compressed()
            blocks.append(block)
            infos.append(block.info(row_ids[part]))
    return infos, blocks


def _valid(columns: Sequence[np.ndarray], shards: Sequence[Rollout]) -> np.ndarray:
    """Numbers of the valid states of a column, `[S]` float64."""
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
