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
from rllib_ppg.aux_losses.value import ValueLoss
from rllib_ppg.data.minibatches import Segments, interleave_row_ids
from rllib_ppg.data.phase_specs import AuxPhase, PolicyPhase
from rllib_ppg.data.replay import BlockInfo, ReplayBlock
from rllib_ppg.data.reward_norm import normalize
from rllib_ppg.data.rollout import Rollout, as_states
from rllib_ppg.learning.advantages import advantages, of_valid_states
from rllib_ppg.learning.augmented_pass import augmented
from rllib_ppg.learning.aux_terms import aux_terms, weights_of
from rllib_ppg.learning.base_learner import AUX_OPTIMIZER, VALUE_OPTIMIZER, BaseLearner
from rllib_ppg.learning.batches import concatenate_to_device, prefetch
from rllib_ppg.learning.epoch import train_epoch, try_loss
from rllib_ppg.learning.open_aux_phase import OpenAuxPhase, next_states
from rllib_ppg.learning.policy_epochs import PlannedEpoch, train_policy_epochs, try_losses
from rllib_ppg.learning.policy_terms import drac_terms, policy_terms
from rllib_ppg.learning.precision import AUTO
from rllib_ppg.learning.presleep import presleep_pass
from rllib_ppg.learning.replay_reader import (
    BLOCK_CACHE_BYTES,
    SEGMENT_CACHE_BYTES,
    BlockReader,
    Observations,
)
from rllib_ppg.learning.rollout_values import for_dataset, for_replay, rollout_values
from rllib_ppg.learning.saturated_units import SaturatedUnits
from rllib_ppg.learning.trained_module import Batch, Terms, TrainedModule
from rllib_ppg.losses import L_value, clone_KL
from rllib_ppg.networks.rl_module import VF_AUX_PREDS


class PPGTorchLearner(BaseLearner):
    """Trains modules through PPG's phases, which the driver calls one by one.

    To change a loss, override the method that computes its terms: `policy_loss`, `value_loss`,
    `policy_and_value_loss`, `policy_and_value_clone_loss` or `aux_loss`, and set
    `.training(learner_class=...)`.
    """

    @override(BaseLearner)
    def build(self) -> None:
        super().build()
        for module in self.trained.values():  # a wrong loss is not to be found after hours
            try_losses(module, self._planned_epochs(module), _policy_weights(module.config, 1.0))
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
            FloatingPointError: A loss or a gradient is NaN or infinite.
        """
        module = self.trained[phase.module_id]
        config = module.config
        T = config.rollout_fragment_length
        _check_shapes(shards, phase, T)
        if len(self.trained) > 1:  # another module's phase has moved this one's learning rates
            self.set_lr(phase.env_steps_before, module.id)
        entropy_coeff = float(module.entropy_schedule.update(timestep=phase.env_steps_before))
        module.begin_phase(config.policy_precision)

        rewards = [_scaled_rewards(s, phase.reward_scale) for s in shards]
        with module.in_evaluation_mode():
            values = [rollout_values(module, s) for s in shards]
        V = [v.V for v in values]
        A, V_targ = advantages(module, shards, rewards, values, self.collective)
        columns = {
            "actions": [s.actions for s in shards],
            "logp_old": [s.logp for s in shards],
            "A": A,
            "V_targ": V_targ,
        }
        if config.vf_phase == "auxiliary":
            columns["V"] = V
        valid = np.concatenate([as_states(s.valid) for s in shards])
        tensors = {
            name: concatenate_to_device([as_states(a) for a in arrays], len(valid), module.device)
            for name, arrays in columns.items()
        }
        states = module.dataset(
            [as_states(s.obs) for s in shards],
            tensors,
            valid,
            phase.row_ids,
            **for_dataset(shards, values),
        )
        segments = Segments(phase.row_ids, phase.num_rows, T, config.steps_per_segment)
        metrics = train_policy_epochs(
            module,
            states,
            segments,
            phase,
            self._planned_epochs(module),
            _policy_weights(config, entropy_coeff),
            self.collective,
        )
        metrics["vf_explained_var"] = self._explained_variance(module, V, V_targ, shards)
        metrics["curr_entropy_coeff"] = entropy_coeff
        if module.vf_states is not None:
            unknown = [sum(v.unknown for v in values)]
            [metrics["num_vf_states_lost"]] = self.collective.sums(unknown, module.device)
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
        rows = [
            {name: x[k] for name, x in stored.items()} | for_replay(s, values[k])
            for k, s in enumerate(shards)
        ]
        infos, blocks = _replay_blocks(
            shards, rows, phase, compress=config.replay_compression is not None
        )
        return ((result, infos), *blocks) if blocks else (result, infos)

    def _planned_epochs(self, module: TrainedModule) -> list[PlannedEpoch]:
        """What the epochs of a policy phase train."""
        config = module.config
        adam = self.get_optimizer(module.id, DEFAULT_OPTIMIZER)
        if config.has_value_epochs:
            value_adam = self.get_optimizer(module.id, VALUE_OPTIMIZER)
            value_epochs = [PlannedEpoch(None, self.value_loss, value_adam)] * config.e_v
            return value_epochs + [PlannedEpoch(self.policy_loss, None, adam)] * config.e_pi
        if config.vf_phase == "both":
            epoch = PlannedEpoch(self.policy_and_value_loss, self.value_loss, adam)
        elif config.vf_clone_coeff and getattr(module.module, "arch", None) != "dual":
            epoch = PlannedEpoch(self.policy_and_value_clone_loss, None, adam)
        else:
            epoch = PlannedEpoch(self.policy_loss, None, adam)
        return [epoch] * config.e_pi

    def policy_loss(self, module: TrainedModule, batch: Batch) -> Terms:
        """-L_clip (-L_KL with a KL penalty) and the entropy, for the policy epochs.

        Args:
            module: The module in training.
            batch: Columns of a micro-batch: `obs`, `actions`, `logp_old`, `A`, `V_targ`. Of a
                recurrent module, `obs` has all frames, also those that are no transitions
                (`learning/recurrence.py`).

        Returns:
            Terms `[B]`: `policy_loss`, `entropy`, and metrics. With `target_kl`, one of them has
            to be `sampled_kl`, (r - 1) - log r.
        """
        inputs = Columns.ACTION_DIST_INPUTS
        out = module.forward(batch, inputs)
        return policy_terms(module, batch, out) | drac_terms(module, batch, out, inputs)

    def value_loss(self, module: TrainedModule, batch: Batch) -> Terms:
        """L_value, for the value epochs; arguments as in `policy_loss`, the term is `vf_loss`."""
        V = Columns.VF_PREDS
        out = module.forward(batch, V)
        vf_loss = L_value(out[V], batch["V_targ"], module.config.vf_clip_param)
        return {"vf_loss": vf_loss, **drac_terms(module, batch, out, V)}

    def policy_and_value_loss(self, module: TrainedModule, batch: Batch) -> Terms:
        """The terms of `policy_loss` and `value_loss` from one pass, for E_pi = E_V."""
        inputs, V = Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS
        out = module.forward(batch, inputs, V)
        terms = policy_terms(module, batch, out)
        terms["vf_loss"] = L_value(out[V], batch["V_targ"], module.config.vf_clip_param)
        return terms | drac_terms(module, batch, out, inputs, V)

    def policy_and_value_clone_loss(self, module: TrainedModule, batch: Batch) -> Terms:
        """The terms of `policy_loss`, and `vf_clone_loss`, 1/2 (V - V_old)^2.

        V_old, the column `V`, is from before the iteration's updates (DCPG, Moon et al. 2022).
        """
        inputs, V = Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS
        out = module.forward(batch, inputs, V)
        terms = policy_terms(module, batch, out)
        terms["vf_clone_loss"] = L_value(out[V], batch["V"])
        return terms | drac_terms(module, batch, out, inputs)

    def _explained_variance(
        self,
        module: TrainedModule,
        V: list[np.ndarray],
        V_targ: list[np.ndarray],
        shards: Sequence[Rollout],
    ) -> float:
        targ = of_valid_states(V_targ, shards)
        residual = targ - of_valid_states(V, shards)
        sums = [targ.size, targ.sum(), targ @ targ, residual.sum(), residual @ residual]
        return _explained_variance(*self.collective.sums(sums, module.device))

    # -- Auxiliary phase: Algorithm 1, lines 7 to 11 -------------------------------------------

    def presleep(self, phase: AuxPhase) -> None:
        """Opens the auxiliary phase: computes pi_old of all states, before anything moves."""
        module = self.trained[phase.module_id]
        config = module.config
        module.begin_phase(self.aux_precision)
        T = config.rollout_fragment_length
        L = config.steps_per_segment
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
        V_presleep = [torch.empty(0, device=module.device)]
        forward = presleep_pass(module)
        saturated = SaturatedUnits(module)
        start = 0
        for block in prefetch(reader.__getitem__, range(len(reader))):
            part = slice(start, start + block.valid.size)
            valid[part] = block.valid.ravel()
            for name in module.replay_columns:
                column = as_states(block.columns[name])
                if name not in columns:
                    columns[name] = np.empty((S, *column.shape[1:]), column.dtype)
                columns[name][part] = column
            with module.in_evaluation_mode():
                out = forward.outputs(block)
                saturated.add(block)
            pi_old[part] = out[Columns.ACTION_DIST_INPUTS]
            if module.needs_presleep_values:
                V_presleep.append(out[Columns.VF_PREDS])
            start = part.stop
        ended = columns.pop("ended", None)
        tensors = {name: torch.from_numpy(x).to(module.device) for name, x in columns.items()}
        tensors["pi_old"] = pi_old
        if module.needs_presleep_values:
            tensors["V_presleep"] = torch.cat(V_presleep)
        self._center_aux_targets(module, tensors, valid)
        row_ids = interleave_row_ids(phase.rows_per_iteration)
        rows = [row_ids[iteration][info.rows] for _, iteration, info in phase.blocks]
        actions = columns.get("actions")
        segments = Segments(rows, sum(phase.rows_per_iteration), T, L)
        states = module.dataset(
            Observations(reader), tensors, valid, block_rows, **forward.for_dataset()
        )
        if module.needs_next_state and ended is not None:  # there are rows
            # A recurrent module knows no state beyond the segment.
            states.others["next"] = next_states(
                ended, valid, T, T if module.recurrence is None else L
            )
        module.aux = OpenAuxPhase(
            phase,
            states,
            segments,
            np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64),
            None if actions is None else actions.reshape(-1, T, *actions.shape[1:]),
            saturated=self.collective.sums(saturated.counts, module.device),
            metrics=[],
        )

    def _center_aux_targets(
        self, module: TrainedModule, tensors: Mapping[str, torch.Tensor], valid: np.ndarray
    ) -> None:
        """Tells the value loss the mean of its target over all states of the phase."""
        loss = module.aux_losses.get(VALUE)
        if isinstance(loss, ValueLoss) and loss.center:
            no_rows = torch.empty(0, device=module.device)
            target = tensors.get(loss.target, no_rows)
            target = target[torch.from_numpy(valid).to(module.device)].double()
            total, count = self.collective.sums([float(target.sum()), len(target)], module.device)
            loss.offset = total / max(count, 1.0)

    def aux_epoch(self, module_id: ModuleID, epoch: int) -> ResultDict:
        """One epoch over all states of the phase, mixed over its iterations.

        Args:
            module_id: Module whose auxiliary phase is open.
            epoch: 0 to E_aux - 1; the last one closes the phase.

        Returns:
            Metrics, as means over the epoch; the last one's are those of the phase, with those of
            each epoch below `epoch_1`, `epoch_2`, ...

        Raises:
            FloatingPointError: A loss or a gradient is NaN or infinite.
        """
        module = self.trained[module_id]
        config, phase = module.config, module.aux
        if module.augmentation is not None:
            phase.draw_augmentation(epoch)
        if module.needs_false_transitions:
            phase.draw_false_transitions(int(module.module.action_space.n), epoch)
        num_minibatches = config.num_aux_minibatches * len(phase.spec.rows_per_iteration)
        metrics, _ = train_epoch(
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
        phase.metrics.append(metrics)
        if epoch == config.e_aux - 1:
            metrics = metrics | {
                f"epoch_{i}/{name}": value
                for i, of_epoch in enumerate(phase.metrics, start=1)
                for name, value in of_epoch.items()
            }
            beyond, outputs = phase.saturated
            if outputs:
                metrics["saturated_units"] = beyond / outputs
            self._weights_seq_no += 1
            module.aux = None
            if module.proximal is not None:
                module.proximal.reset()
            if config.adam_relative:
                self._restart_time_of_adams(module_id)
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


def _policy_weights(config: Any, entropy_coeff: float) -> dict[str, float]:
    """The weights of the terms that the policy phase trains."""
    return {
        "policy_loss": 1.0,
        "entropy": -entropy_coeff,
        "vf_loss": 1.0 if config.has_value_epochs else config.vf_loss_coeff,
        "vf_clone_loss": config.vf_clone_coeff,
        "augmentation_kl": config.augmentation_coeff,
        "augmentation_vf_loss": config.augmentation_coeff,
    }


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
    columns: Sequence[Mapping[str, np.ndarray]],
    phase: PolicyPhase,
    compress: bool,
) -> tuple[list[BlockInfo], list[ReplayBlock]]:
    """Cuts the shards into replay blocks; `columns` are those of each shard, `[n, ...]`."""
    infos, blocks, n = [], [], phase.rows_per_block
    for k, (shard, row_ids) in enumerate(zip(shards, phase.row_ids, strict=True)):
        rows = ReplayBlock(shard.obs, shard.valid, columns[k])
        for start in range(0, len(shard) if n else 0, n or 1):
            part = slice(start, start + n)
            block = rows.select_rows(part)
            if compress:
                block = block.compressed()
            blocks.append(block)
            infos.append(block.info(row_ids[part]))
    return infos, blocks


def _explained_variance(
    count: float, targ: float, targ2: float, residual: float, residual2: float
) -> float:
    """1 - Var[residual] / Var[target] from sums over states; 0 for a constant target."""
    count = max(count, 1)
    var_targ = targ2 / count - (targ / count) ** 2
    var_residual = residual2 / count - (residual / count) ** 2
    return 1.0 - var_residual / var_targ if var_targ > 0 else 0.0
