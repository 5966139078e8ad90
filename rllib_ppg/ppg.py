"""Phasic Policy Gradient as an RLlib algorithm (Cobbe et al. 2020, arXiv 2009.04416).

The driver's side: it holds references and tells env runners and learners what to do; what they do
is in `env_runner.py` and `learner.py`.
"""

from __future__ import annotations

import logging
import pathlib
import tempfile
import time
from collections.abc import Iterable
from dataclasses import astuple, replace
from functools import partial
from typing import Any

import numpy as np
import ray
from pyarrow import fs
from ray.exceptions import RayError, RayTaskError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
    WEIGHTS_SEQ_NO,
)
from ray.train._internal.checkpoint_manager import _TrainingResult
from ray.tune import Checkpoint
from ray.tune.execution.placement_groups import PlacementGroupFactory

from rllib_ppg.callbacks import PPGCallback
from rllib_ppg.checkpoint.folder import (
    REPLAY,
    check_contents,
    check_networks,
    draft,
    local_copy,
    resolve,
)
from rllib_ppg.config import PPGConfig
from rllib_ppg.data.episodes import Episode, EpisodeWindow
from rllib_ppg.data.minibatches import interleave_row_ids
from rllib_ppg.data.phase_specs import AuxPhase, PolicyPhase
from rllib_ppg.data.replay import ReplayBlock, ReplayEntry, ReplayList, rows_per_block
from rllib_ppg.data.reward_norm import RewardNormalizer
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.driver.checkpointing import load_exact, save_exact
from rllib_ppg.driver.learner_pool import LearnerPool
from rllib_ppg.envs.vector_env import probe_spaces
from rllib_ppg.resources.capacity import check_resources
from rllib_ppg.resources.node_roles import with_node_roles
from rllib_ppg.sampling.env_runner import RolloutSummary

logger = logging.getLogger(__name__)

POLICY_PHASE_TIMER = "policy_phase"
AUX_PHASE_TIMER = "auxiliary_phase"
# How often to look whether env runners are back.
_LOOK_AGAIN_S = 1.0

# An env runner's summary, and its shards of rows: references, or the rollouts themselves where
# the env runner is in this process.
Sampled = tuple[RolloutSummary, list[Any]]


class PPG(Algorithm):
    """Policy phases of PPO on two networks, auxiliary phases that distil the value function."""

    config: PPGConfig
    learner_group: LearnerGroup
    # Of all observations so far; None without an observation filter.
    _obs_moments: Moments | None

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> PPGConfig:
        return PPGConfig()

    @override(Algorithm)
    def training_step(self) -> None:
        """One iteration of Algorithm 1's policy phase; every N_pi-th ends in an auxiliary phase."""
        self._learners.retry_on_learner_loss(
            partial(self._learners.save_recovery_point, if_none=True)
        )
        if self._obs_moments is not None and not self._obs_moments.count:
            self._start_observation_filter()
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            rollouts = self._fetch(self._sample())
            while not rollouts:
                self._wait_for_env_runners()
                rollouts = self._fetch(self._sample())
        self._log_ppg(num_rollouts=len(rollouts))
        self._log_sampling([summary for summary, _ in rollouts])
        with self.metrics.log_time((TIMERS, POLICY_PHASE_TIMER)):
            self._policy_phase(rollouts)
        summaries = [summary for summary, _ in rollouts]
        del rollouts  # the replay list has the states now
        if self._replay.is_full:
            with self.metrics.log_time((TIMERS, AUX_PHASE_TIMER)):
                self._auxiliary_phase()
        self._update_observation_filter(summary.obs for summary in summaries)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._sync_weights()

    def _policy_phase(self, rollouts: list[Sampled]) -> None:
        """E_V epochs of L_value and E_pi epochs of L_clip on this iteration's rollouts."""
        summaries = [summary for summary, _ in rollouts]
        if self.config.normalize_rewards:
            self._reward_norm.update(summary.returns for summary in summaries)
        numbers = interleave_row_ids([sum(summary.rows) for summary in summaries])
        n, per_block = self._num_learners, self._rows_per_block
        phase = PolicyPhase(
            seed=self._next_seed(),
            rows=[],
            num_rows=sum(map(len, numbers)),
            env_steps=self._env_steps(),
            reward_scale=self._reward_norm.scale if self.config.normalize_rewards else None,
            rows_per_block=per_block,
        )
        calls, num_blocks = [], []
        for k in range(n):
            rows = []
            for numbers_, summary in zip(numbers, summaries, strict=True):
                start = sum(summary.rows[:k])
                rows.append(numbers_[start : start + summary.rows[k]])
            calls.append((replace(phase, rows=rows), *(shards[k] for _, shards in rollouts)))
            num_blocks.append(sum(-(-len(r) // per_block) for r in rows) if per_block else 0)
        results = self._learners.run_phase(
            lambda: self._learners.call("policy_phase", calls, num_blocks)
        )
        self.metrics.aggregate([metrics for (metrics, _), _ in results], key=LEARNER_RESULTS)
        if not self.config.has_aux_phase:
            return
        self._replay.append(
            [
                ReplayEntry(ref, info, learner)
                for learner, ((_, infos), refs) in enumerate(results)
                for ref, info in zip(refs, infos, strict=True)
            ]
        )
        self._log_ppg(
            policy_iteration=len(self._replay),
            replay_states=self._replay.states,
            replay_bytes=self._replay.nbytes,
            num_aux_phases_lifetime=self._num_aux_phases,
        )

    def _auxiliary_phase(self) -> None:
        """E_aux epochs of L_joint and L_value over all states of the phase, on all learners."""
        n, seed, rows = self._num_learners, self._next_seed(), self._replay.rows_per_iteration()
        calls = [(AuxPhase(seed, self._replay.of_learner(k), rows),) for k in range(n)]

        def epochs() -> list[Any]:
            self._learners.call("presleep", calls)
            self._on_aux_epoch_end(0)
            for epoch in range(self.config.e_aux):
                results = self._learners.call("aux_epoch", [(epoch,)] * n)
                self._on_aux_epoch_end(epoch + 1)
            return results

        results = self._learners.run_phase(epochs)
        self.metrics.aggregate([metrics for metrics, _ in results], key=LEARNER_RESULTS)
        self._replay.clear()
        self._num_aux_phases += 1
        self._log_ppg(num_aux_phases_lifetime=self._num_aux_phases)

    def _start_observation_filter(self) -> None:
        """Statistics from random actions, so that the first rollout is normalised already."""
        self._update_observation_filter(moments for moments, _ in self._call_env_runners("warm_up"))
        self._sync_weights()

    def _update_observation_filter(self, new: Iterable[Moments | None]) -> None:
        """Takes in the iteration's observations, for the next one's rollouts.

        At its end, because the policy that learns is to be the one that has acted.
        """
        if self._obs_moments is None:
            return
        for moments in new:
            if moments is not None:
                self._obs_moments = self._obs_moments + moments
        if self._obs_moments.count:
            statistics = (self._obs_moments.mean, self._obs_moments.std)
            calls = [statistics] * self._num_learners
            self._learners.run_phase(lambda: self._learners.call("set_observation_filter", calls))

    def _sync_weights(self) -> None:
        """The iteration's one broadcast: the policy network, to all env runners."""
        self._learners.retry_on_learner_loss(
            lambda: self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group,
                policies=[DEFAULT_MODULE_ID],
                inference_only=True,
                # Without waiting, a broadcast that follows another too soon is dropped in silence.
                timeout_seconds=None,
            )
        )

    # -- Calls to env runners and learners -----------------------------------------------------

    def _sample(self) -> list[Sampled]:
        """One rollout of every healthy env runner, cut into one shard of rows a learner.

        Raises:
            Exception: What an env runner raised, which is how NaN observations and env errors
                show. An env runner that died is restarted, or not, as RLlib's settings say.
        """
        n = self._num_learners
        return self._call_env_runners("sample_rollout", n, self._env_steps(), num_objects=n)

    def _wait_for_env_runners(self) -> None:
        """Waits until one is back of env runners that have all died, say with their one node.

        An iteration without a rollout would be none, but would count as one.

        Raises:
            RuntimeError: Nobody starts them again.
        """
        group = self.env_runner_group
        if not self.config.restart_failed_env_runners:
            raise RuntimeError("all env runners have died, and restart_failed_env_runners is off")
        if group.num_healthy_remote_workers() == 0:
            logger.warning("all env runners have died; waiting for one to be back")
        while group.num_healthy_remote_workers() == 0:
            self.restore_env_runners(group)
            time.sleep(_LOOK_AGAIN_S)

    def _fetch(self, rollouts: list[Sampled]) -> list[Sampled]:
        """Brings each learner its shards; leaves out rollouts that were lost with their node.

        Before any learner begins, as those that have begun could not go on without the others.
        """
        if self.env_runner_group.num_remote_env_runners() == 0:
            return rollouts
        calls = [([shards[k] for _, shards in rollouts],) for k in range(self._num_learners)]
        results = self._learners.retry_on_learner_loss(lambda: self._learners.call("fetch", calls))
        lost = {i for missing, _ in results for i in missing}
        if lost:
            logger.warning(
                "%d of %d rollouts were lost with their env runners' node; this iteration goes on "
                "with the others",
                len(lost),
                len(rollouts),
            )
        return [rollout for i, rollout in enumerate(rollouts) if i not in lost]

    def _call_env_runners(
        self, method: str, *args: Any, num_objects: int = 0
    ) -> list[tuple[Any, list[Any]]]:
        """Calls all healthy env runners at once, and waits for them.

        Args:
            method: the env runner's method.
            *args: its arguments.
            num_objects: number of objects that it returns beside its result.

        Returns:
            (result, references to the objects, or those of an env runner in this process) of each
            env runner that is still there.

        Raises:
            Exception: What an env runner has raised.
            TimeoutError: None has answered within `sample_timeout_s`.
        """
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            out = getattr(self.env_runner, method)(*args)
            return [(out[0], list(out[1:])) if num_objects else (out, [])]
        manager = group._worker_manager
        actors = {i: manager.actors()[i] for i in manager.healthy_actor_ids()}
        # Not through the manager, which makes one object of a call's result (each learner's rows
        # are to be an object of their own, and what a call returns outlives the env runner), and
        # which would show what an env has raised as a dead actor.
        calls = {
            i: getattr(actor, method).options(num_returns=1 + num_objects).remote(*args)
            for i, actor in actors.items()
        }
        calls = {i: refs if num_objects else [refs] for i, refs in calls.items()}
        heads = [head for head, *_ in calls.values()]
        timeout = self.config.sample_timeout_s
        late = ray.wait(heads, num_returns=len(heads), timeout=timeout)[1] if heads else []
        results: list[tuple[Any, list[Any]]] = []
        for i, (head, *objects) in calls.items():
            if head in late:
                # Out of service until it answers again: what it was asked for is in its way.
                manager.set_actor_state(i, healthy=False)
                continue
            try:
                results.append((ray.get(head), objects))
            except RayTaskError as e:
                raise e.cause from e
            except RayError:  # it has died, of whatever
                if not group._ignore_ray_errors_on_env_runners:
                    raise
                manager.set_actor_state(i, healthy=False)
        if late and not results:
            raise TimeoutError(f"no env runner answered within sample_timeout_s={timeout:g}")
        return results

    def _on_aux_epoch_end(self, epoch: int) -> None:
        for callback in self.callbacks:
            if isinstance(callback, PPGCallback):
                callback.on_aux_epoch_end(
                    algorithm=self,
                    metrics_logger=self.metrics,
                    epoch=epoch,
                    num_epochs=self.config.e_aux,
                )

    # -- State ---------------------------------------------------------------------------------

    @override(Algorithm)
    def setup(self, config: AlgorithmConfig) -> None:
        """Builds env runners and learners.

        Raises:
            ValueError: The cluster has too little of something to start them.
        """
        if not ray.is_initialized():
            ray.init()  # what follows asks it what there is, which does not start it
        self.config = with_node_roles(self.config)
        self._num_learners = max(self.config.num_learners, 1)
        self._replay = ReplayList(self.config.n_pi)
        self._reward_norm = RewardNormalizer()
        filtered = self.config.observation_filter != "NoFilter"
        self._obs_moments = Moments(0.0, 0.0, 0.0) if filtered else None
        self._episodes = EpisodeWindow(self.config.metrics_num_episodes_for_smoothing)
        self._num_aux_phases = 0
        self._seed = self.config.seed
        if self._seed is None:
            self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._num_seeds = 0
        if ray.util.get_current_placement_group() is None:
            # Not a Tune trial, whose resources were checked before it was started. The main
            # process, the first bundle, is this one and runs already.
            _, *bundles = super().default_resource_request(self.config).bundles
            self._check_resources(self.config, bundles)
        try:
            super().setup(config)
        except RayTaskError as e:  # raised in an env runner or a learner
            raise e.cause from e
        self._learners = LearnerPool(self.learner_group, self._build_learner_group)
        self._rows_per_block = 0  # none are kept
        if self.config.has_aux_phase:
            observation_space, _ = self.spaces[DEFAULT_MODULE_ID]
            self._rows_per_block = rows_per_block(self.config.row_bytes(observation_space))

    def _build_learner_group(self) -> LearnerGroup:
        """Builds a group of learners like the one there is, in its place."""
        self.learner_group = self.config.build_learner_group(
            rl_module_spec=self.learner_group._module_spec
        )
        return self.learner_group

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: AlgorithmConfig | dict) -> PlacementGroupFactory:
        """What a trial reserves.

        Raises:
            ValueError: The cluster has less, or too little memory for the replay list.
        """
        merged = cls.get_default_config().update_from_dict(config)
        if not ray.is_initialized():
            return super().default_resource_request(merged)
        merged = with_node_roles(merged)
        request = super().default_resource_request(merged)
        cls._check_resources(merged, request.bundles)
        return request

    @staticmethod
    def _check_resources(config: PPGConfig, bundles: list[dict[str, float]]) -> None:
        # Without a look at the env there is no telling how large its observations are.
        checked = not config.disable_env_checking
        replay_bytes = config.replay_bytes(probe_spaces(config)[0]) if checked else 0
        check_resources(config, bundles, replay_bytes)

    @override(Algorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state and PPG's own, but for what has files of its own (`checkpoint.py`)."""
        return super().get_state(*args, **kwargs) | {
            "ppg": {
                "num_aux_phases": self._num_aux_phases,
                "reward_norm": astuple(self._reward_norm.moments),
                "obs_moments": self._obs_moments and astuple(self._obs_moments),
                "episodes": [list(episode) for episode in self._episodes.episodes],
                "seed": self._seed,
                "num_seeds": self._num_seeds,
            }
        }

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self._learners.discard_recovery_point()
        super().set_state(state)
        if "ppg" in state:
            own = state["ppg"]
            self._num_aux_phases = own["num_aux_phases"]
            self._reward_norm.moments = Moments(*own["reward_norm"])
            if self._obs_moments is not None and own["obs_moments"]:
                self._obs_moments = Moments(*own["obs_moments"])
            self._episodes.episodes.clear()
            self._episodes.add(Episode(*episode) for episode in own["episodes"])
            self._seed, self._num_seeds = own["seed"], own["num_seeds"]
            # Tune's PBT goes on from a checkpoint with another learning rate than it was saved by.
            if self._env_steps() > 0:
                self._learners.call("set_lr", [(self._env_steps(),)] * self._num_learners)

    @override(Algorithm)
    def save(self, checkpoint_dir: str | None = None) -> Any:
        """Writes a checkpoint as Tune asks for it, straight to where it stays.

        Tune has it written to a temporary folder and copied, all of the replay list each time.
        """
        storage = self._storage
        if checkpoint_dir or storage is None:
            return super().save(checkpoint_dir)
        metrics = dict(self._last_result or {})
        storage._update_checkpoint_index(metrics)
        storage._check_validation_file()  # raises if this node does not share the storage
        filesystem, path = storage.storage_filesystem, storage.checkpoint_fs_path
        use_msgpack = self.config._use_msgpack_checkpoints
        self.save_to_path(path, filesystem=filesystem, use_msgpack=use_msgpack)
        storage.persist_artifacts(force=storage.sync_config.sync_artifacts_on_checkpoint)
        return _TrainingResult(Checkpoint(path, filesystem), metrics)

    @override(Algorithm)
    def save_to_path(
        self,
        path: str | pathlib.Path | None = None,
        *,
        filesystem: fs.FileSystem | None = None,
        **kwargs: Any,
    ) -> str:
        """Writes a checkpoint to go on from exactly (docs/reliability.md).

        It appears at `path` when it is complete; if that fails, what was there is there still.
        The replay list streams into it, a block at a time, and what of it is in an earlier
        checkpoint of this phase is taken over from there.

        Raises:
            OSError: The disk is full, say.
        """
        filesystem, root = resolve(path or tempfile.mkdtemp(), filesystem)
        save_rllibs = partial(super().save_to_path, **kwargs)

        def write() -> None:
            with draft(filesystem, root) as new:
                save_rllibs(new.folder)
                self._learners.call("check_saved", [()] * self._num_learners)
                save_exact(self, new.folder)
                replay = self._replay.save(new) if self.config.checkpoint_replay else None
                new.finish(
                    replay=replay,
                    networks=self._network_shapes(),
                    policy_iteration=len(self._replay),
                    rollout_fragment_length=self.config.rollout_fragment_length,
                )

        self._learners.retry_on_learner_loss(write)
        return str(path or root)

    @override(Algorithm)
    def restore_from_path(
        self,
        path: str | pathlib.Path,
        *,
        component: str | None = None,
        filesystem: fs.FileSystem | None = None,
        **kwargs: Any,
    ) -> None:
        """Restores a checkpoint, also an older one into an algorithm that trains already.

        Raises:
            ValueError: There is no checkpoint of PPG at `path`, it is damaged, or it does not fit
                this algorithm's settings; nothing has changed then.
        """
        filesystem, root = resolve(path, filesystem)
        if component is not None:
            self._learners.discard_recovery_point()
            with local_copy(filesystem, root, without=REPLAY) as local:
                super().restore_from_path(local, component=component, **kwargs)
            self._force_weights()
            return
        wanted = self.config.checkpoint_replay and self.config.has_aux_phase
        manifest = check_contents(filesystem, root, replay=wanted)
        shapes = self._learners.retry_on_learner_loss(self._network_shapes)
        check_networks(root, manifest["networks"], shapes)
        replay = self._restored_replay(filesystem, root, manifest)
        with local_copy(filesystem, root, without=REPLAY) as local:
            super().restore_from_path(local, **kwargs)
            self._replay = replay
            self._force_weights()
            load_exact(self, pathlib.Path(local))
        self._learners.save_recovery_point()

    def _network_shapes(self) -> dict[str, list[int]]:
        (shapes, _), *_ = self._learners.call("network_shapes", [()] * self._num_learners)
        return dict(shapes)

    def _restored_replay(
        self, filesystem: fs.FileSystem, root: str, manifest: dict[str, Any]
    ) -> ReplayList:
        replay = ReplayList(self.config.n_pi)
        if not self.config.has_aux_phase:
            if manifest["policy_iteration"]:
                logger.warning(
                    "going on without the states of the checkpoint's phase: these settings have "
                    "no auxiliary phases"
                )
            return replay
        if manifest["replay"] is None or not self.config.checkpoint_replay:
            if manifest["policy_iteration"]:
                logger.warning(
                    "going on without the states of this phase (checkpoint_replay=False): the "
                    "phase of n_pi=%d iterations, %d of which were done, begins anew",
                    self.config.n_pi,
                    manifest["policy_iteration"],
                )
            return replay
        T = manifest["rollout_fragment_length"]
        if manifest["replay"] and self.config.rollout_fragment_length != T:
            raise ValueError(
                f"the checkpoint's replay list has rows of {T} steps: go on with "
                f"rollout_fragment_length={T}, not {self.config.rollout_fragment_length}"
            )
        replay.load(
            filesystem,
            root,
            manifest,
            self._num_learners,
            put=self._put_block,
            compress=self.config.replay_compression is not None,
        )
        return replay

    def _put_block(self, block: ReplayBlock, learner: int) -> ray.ObjectRef:
        """Puts a block into the object store of the node that its learner is on."""
        if self.learner_group.is_local:
            return ray.put(block)
        # What an actor returns lies on its node, and is this process's.
        return self.learner_group._workers[learner].keep.remote(block)

    def _force_weights(self) -> None:
        """Moves all env runners to the learners' weights, even if those are older than theirs."""
        state = self.learner_group.get_state(
            components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True
        )[COMPONENT_LEARNER]
        ref = ray.put({key: state[key] for key in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)})

        def force(env_runner: Any) -> None:
            env_runner._weights_seq_no = 0  # what it has is newer than nothing
            env_runner.set_state(ray.get(ref))

        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                group.foreach_env_runner(force)

    @override(Algorithm)
    def _compile_iteration_results(self, **kwargs: Any) -> dict[str, Any]:
        # RLlib repeats a metric that this iteration did not log as NaN. Those of the auxiliary
        # phase are left out instead, until the next one.
        results = super()._compile_iteration_results(**kwargs)
        module = results.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
        if np.isnan(list(module.get("aux", {}).values())).any():
            module.pop("aux")
        return results

    def __repr__(self) -> str:
        # RLlib's fails before the config is set, and with it Ray's report of what went wrong.
        return type(self).__name__ if self.config is None else super().__repr__()

    # -- Small things --------------------------------------------------------------------------

    def _next_seed(self) -> int:
        """A seed for the next phase's minibatches; the same sequence again after a restore."""
        self._num_seeds += 1
        sequence = np.random.SeedSequence([self._seed, self._num_seeds])
        return int(sequence.generate_state(1)[0])

    def _log_sampling(self, summaries: list[RolloutSummary]) -> None:
        self.metrics.aggregate([s.metrics for s in summaries], key=ENV_RUNNER_RESULTS)
        for summary in summaries:
            self._episodes.add(summary.episodes)
        self._episodes.log(self.metrics)

    def _env_steps(self) -> int:
        key = (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
        return int(self.metrics.peek(key, default=0))

    def _log_ppg(self, **values: float) -> None:
        for key, value in values.items():
            self.metrics.log_value(("ppg", key), value, reduce="max", window=1)
