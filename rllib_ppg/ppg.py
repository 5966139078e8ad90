"""Phasic Policy Gradient: Algorithm 1 of Cobbe et al. 2020 (arXiv 2009.04416).

This is the driver's side. It holds references to rollouts and replay blocks and tells env runners
and learners what to do; what they do is in `sampling/env_runner.py` and `learner.py`.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    SYNCH_WORKER_WEIGHTS_TIMER,
)

from rllib_ppg.data.phase_specs import AuxPhase, PolicyPhase
from rllib_ppg.data.rollout import SampledRollout
from rllib_ppg.driver.base_algorithm import BaseAlgorithm
from rllib_ppg.driver.module_state import ModuleState

POLICY_PHASE_TIMER = "policy_phase"
AUX_PHASE_TIMER = "auxiliary_phase"


class PPG(BaseAlgorithm):
    """Policy phases of PPO on two networks, and auxiliary phases that distil the value function.

    Build it with `PPGConfig(...).build_algo()`, or name it in Tune: `tune.Tuner("PPG", ...)`.
    """

    @override(Algorithm)
    def training_step(self) -> None:
        """One iteration of the policy phase; every N_pi-th ends in an auxiliary phase."""
        with self._time(ENV_RUNNER_SAMPLING_TIMER):
            rollouts = self._sample()  # T steps of N envs from each env runner
        for module in self.modules.values():
            with self._time(POLICY_PHASE_TIMER):
                self._policy_phase(module, rollouts)  # E_V and E_pi epochs; fills the replay list
        self._log_replay_lists()
        full = [module for module in self.modules.values() if module.replay.is_full]
        for module in full:  # after N_pi iterations
            with self._time(AUX_PHASE_TIMER):
                self._auxiliary_phase(module)  # E_aux epochs over all states of the phase
        if full:
            self._num_aux_phases += 1
            self._log_ppg(num_aux_phases_lifetime=self._num_aux_phases)
        for module in self.modules.values():
            moments = [r.summary.modules[module.id].obs for r in rollouts]
            self._update_observation_filter(module, moments)
        with self._time(SYNCH_WORKER_WEIGHTS_TIMER):
            self._sync_weights()

    def _sample(self) -> list[SampledRollout]:
        """One rollout of every healthy env runner."""
        if any(m.observations and m.observations.is_empty for m in self.modules.values()):
            self._warm_up_filters()
        self._env_steps_before = self._env_steps()
        rollouts = self._env_runners.sample(self._env_steps_before)
        self._log_sampling(r.summary for r in rollouts)
        return rollouts

    def _policy_phase(self, module: ModuleState, rollouts: list[SampledRollout]) -> None:
        """Lines 2 to 6: E_V epochs of L_value and E_pi epochs of L_clip on new rollouts."""
        rows = [r.summary.modules[module.id].rows for r in rollouts]
        if not any(map(sum, rows)):  # none of the module's agents has acted
            module.store([])
            return
        self._warn_of_few_rows(module, sum(map(sum, rows)))
        specs = PolicyPhase.for_learners(
            rows,
            module_id=module.id,
            seed=self._next_seed(),
            env_steps_before=self._env_steps_before,
            env_steps=self._env_steps(),
            reward_scale=module.update_reward_scale(rollouts),
            rows_per_block=module.rows_per_block,
        )
        results = self._learners.run_phase(
            self._learners.call,
            "policy_phase",
            [(spec, *(r.shards[module.id][k] for r in rollouts)) for k, spec in enumerate(specs)],
            [spec.num_blocks for spec in specs],
        )
        for rollout in rollouts:
            rollout.shards[module.id].clear()  # the replay blocks hold the states now
        self.metrics.aggregate([metrics for (metrics, _), _ in results], key=LEARNER_RESULTS)
        if module.config.has_aux_phase:
            module.store([(infos, blocks) for (_, infos), blocks in results])

    def _auxiliary_phase(self, module: ModuleState) -> None:
        """Lines 7 to 11: E_aux epochs of L_joint and L_value over all states of the phase."""
        specs = AuxPhase.for_learners(
            len(self._learners), module.replay, module.id, self._next_seed()
        )
        metrics = self._learners.run_phase(self._auxiliary_epochs, module, specs)
        self.metrics.aggregate(metrics, key=LEARNER_RESULTS)
        module.replay.clear()

    def _auxiliary_epochs(self, module: ModuleState, specs: list[AuxPhase]) -> list[Any]:
        """All of an auxiliary phase on the learners; it runs again if a learner dies in it."""
        self._learners.call("presleep", [(spec,) for spec in specs])  # pi_old of all states
        self._on_aux_epoch_end(module, 0)
        for epoch in range(module.config.e_aux):
            metrics = self._learners.call_all("aux_epoch", module.id, epoch)
            self._on_aux_epoch_end(module, epoch + 1)
        return metrics

    def _warm_up_filters(self) -> None:
        """Fills the observation filters, so that the first rollout is filtered already."""
        if self._env_steps() > 0:  # a module that has not acted yet starts with its first rollout
            return
        warm_up = [of_modules for of_modules, _ in self._env_runners.call("warm_up")]
        for module in self.modules.values():
            self._update_observation_filter(module, [x.get(module.id) for x in warm_up])
        self._sync_weights()

    def _update_observation_filter(self, module: ModuleState, new: list[Any]) -> None:
        if module.observations is None:
            return
        module.observations.update(new)
        if not module.observations.is_empty:
            moments = module.observations.moments
            self._learners.run_phase(
                self._learners.call_all,
                "set_observation_filter",
                module.id,
                moments.mean,
                moments.std,
            )
