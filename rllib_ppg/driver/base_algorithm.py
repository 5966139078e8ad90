"""The part of the algorithm that is plumbing: RLlib's and Tune's hooks, seeds, checkpoints."""

from __future__ import annotations

import logging
import pathlib
import tempfile
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import ray
import tree
from pyarrow import fs
from ray.exceptions import RayTaskError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.typing import ModuleID
from ray.tune import Checkpoint
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.util import log_once

from rllib_ppg import ray_private
from rllib_ppg.callbacks import PPGCallback
from rllib_ppg.checkpoint.folder import REPLAY, check_format, local_copy, resolve
from rllib_ppg.config import PPGConfig
from rllib_ppg.data.episodes import Episode, EpisodeWindow
from rllib_ppg.data.minibatches import segments_per_row
from rllib_ppg.data.rollout import RolloutSummary
from rllib_ppg.driver.checkpointing import restore_checkpoint, save_checkpoint
from rllib_ppg.driver.ending import Stopped, kill_busy_env_runners, leave_to_ray
from rllib_ppg.driver.env_runner_pool import EnvRunnerPool
from rllib_ppg.driver.learner_pool import LearnerPool
from rllib_ppg.driver.module_state import ModuleState
from rllib_ppg.driver.old_api import OldAPI
from rllib_ppg.envs.module_spaces import module_spaces
from rllib_ppg.resources.capacity import check_resources
from rllib_ppg.resources.node_roles import with_node_roles

logger = logging.getLogger(__name__)


class BaseAlgorithm(OldAPI, Algorithm):
    """An algorithm of phases over pools of env runners and learners.

    Attributes:
        modules: What the driver keeps for each module, by its id.
    """

    config: PPGConfig
    learner_group: LearnerGroup
    env_runner_group: EnvRunnerGroup
    eval_env_runner_group: EnvRunnerGroup | None
    modules: dict[ModuleID, ModuleState]

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> PPGConfig:
        return PPGConfig()

    @override(Algorithm)
    def setup(self, config: AlgorithmConfig) -> None:
        """Builds env runners and learners.

        Raises:
            ValueError: The cluster lacks the resources to start them, or env runners can't make
                their env.
        """
        if not ray.is_initialized():
            ray.init()  # reading the cluster's resources does not start it
        self.config = with_node_roles(self.config)
        if reason := self.config.env_runner_reason:
            logger.warning("env runner: RLlib's, because %s", reason)
        self._episodes = EpisodeWindow(self.config.metrics_num_episodes_for_smoothing)
        self._num_aux_phases = self._env_steps_before = 0
        self._seed = self.config.seed
        if self._seed is None:
            self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._num_seeds = 0
        if ray.util.get_current_placement_group() is None:
            # Not a Tune trial, whose resources were checked before it started. The first bundle is
            # this process, which is running already.
            _, *bundles = super().default_resource_request(self.config).bundles
            self._check_resources(self.config, bundles)
        try:
            super().setup(config)
        except RayTaskError as e:  # raised in an env runner or a learner
            raise e.cause from e
        except IndexError as e:  # RLlib's, if no env runner has come through its constructor
            raise self._env_runner_error() from e
        ray_private.lock_metrics(self.metrics)
        self.modules = {
            module_id: ModuleState(
                module_id,
                self.config.get_config_for_module(module_id),
                self.spaces[module_id][0],
            )
            for module_id in ray_private.module_spec(self.learner_group).rl_module_specs
            if self.config.trains(module_id)
        }
        leave_to_ray(self.learner_group)
        self._learners = LearnerPool(self.learner_group, self._build_learner_group)
        self._env_runners = EnvRunnerPool(
            self.env_runner_group,
            self.config,
            self._learners,
            [*self.modules],
            self.restore_env_runners,
        )
        self._learners.save_recovery_point()

    def _env_runner_error(self) -> Exception:
        """Why no env runner has started: what its env says in one of Ray's workers."""
        try:
            ray.get(ray.remote(num_cpus=0)(module_spaces).remote(self.config))
        except RayTaskError as e:
            return e.cause
        return RuntimeError("no env runner has started: Ray's log says why")

    def _build_learner_group(self) -> LearnerGroup:
        """Builds a group of learners in place of the current one."""
        self.learner_group = self.config.build_learner_group(
            rl_module_spec=ray_private.module_spec(self.learner_group)
        )
        leave_to_ray(self.learner_group)
        return self.learner_group

    @override(Algorithm)
    def cleanup(self) -> None:
        if isinstance(self.learner_group, Stopped):
            return
        kill_busy_env_runners(self.env_runner_group, self.eval_env_runner_group)
        super().cleanup()
        stopped: Any = Stopped()
        self.learner_group = self._learners = stopped
        self.env_runner_group = self.eval_env_runner_group = self._env_runners = stopped

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: AlgorithmConfig | dict) -> PlacementGroupFactory:
        """Resources that a trial reserves.

        Raises:
            ValueError: The cluster has fewer, or too little memory for the replay list.
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
        # Without an env to look at, the size of its observations is unknown.
        modules = {} if config.disable_env_checking else module_spaces(config)
        check_resources(config, bundles, config.replay_bytes_of_modules(modules))

    # -- Modules -------------------------------------------------------------------------------

    @override(Algorithm)
    def add_module(
        self,
        module_id: ModuleID,
        module_spec: RLModuleSpec,
        *,
        new_should_module_be_updated: Any = None,
        **kwargs: Any,
    ) -> MultiRLModuleSpec:
        """Adds a module that acts and is not trained, such as an earlier policy to play against.

        Args:
            module_id: Its id.
            module_spec: Its spec.
            new_should_module_be_updated: The `policies_to_train` from now on, without it.
            **kwargs: For RLlib's `add_module`.

        Raises:
            ValueError: Other modules would be trained than so far.
        """
        self._check_trained([*self.modules, module_id], new_should_module_be_updated)
        return super().add_module(
            module_id,
            module_spec,
            new_should_module_be_updated=new_should_module_be_updated,
            **kwargs,
        )

    @override(Algorithm)
    def remove_module(
        self, module_id: ModuleID, *, new_should_module_be_updated: Any = None, **kwargs: Any
    ) -> Any:
        """Removes a module that is not trained.

        Raises:
            ValueError: It is trained, or other modules would be from now on.
        """
        if module_id in self.modules:
            raise ValueError(f"module {module_id!r} is trained, and can't be removed")
        self._check_trained(self.modules, new_should_module_be_updated)
        return super().remove_module(
            module_id, new_should_module_be_updated=new_should_module_be_updated, **kwargs
        )

    def _check_trained(self, module_ids: Iterable[ModuleID], to_train: Any) -> None:
        """Raises ValueError if, of these modules, not those that are trained now would be."""
        config = self.config.copy(copy_frozen=False)
        if to_train is not None:
            config.policies_to_train = to_train
        if {m for m in module_ids if config.trains(m)} != {*self.modules}:
            raise ValueError(
                f"PPG trains the policies that it was built with, here {', '.join(self.modules)}: "
                f"give new_should_module_be_updated={[*self.modules]}, or name all policies in "
                ".multi_agent(policies=...) before the algorithm is built"
            )

    # -- Checkpoints ---------------------------------------------------------------------------

    @override(Algorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state and PPG's own, except what has its own files (`checkpoint/folder.py`)."""
        return super().get_state(*args, **kwargs) | {
            "ppg": {
                "modules": {id_: module.get_state() for id_, module in self.modules.items()},
                "num_aux_phases": self._num_aux_phases,
                "episodes": [list(episode) for episode in self._episodes.episodes],
                "seed": self._seed,
                "num_seeds": self._num_seeds,
            }
        }

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        self._learners.discard_recovery_point()
        super().set_state(state)
        if "ppg" in state:
            own = state["ppg"]
            for module_id, module in self.modules.items():
                if module_id in own["modules"]:
                    module.set_state(own["modules"][module_id])
            self._num_aux_phases = own["num_aux_phases"]
            self._episodes.episodes.clear()
            self._episodes.add(Episode(*episode) for episode in own["episodes"])
            self._seed, self._num_seeds = own["seed"], own["num_seeds"]
            # Tune's PBT resumes a checkpoint with a learning rate other than the saved one.
            if self._env_steps() > 0:
                self._learners.call_all("set_lr", self._env_steps())

    @override(Algorithm)
    def save(self, checkpoint_dir: str | None = None) -> Any:
        """Writes a checkpoint for Tune, directly to its final place.

        Tune would write it to a temporary folder and copy it, with all of the replay list each
        time.
        """
        place = None if checkpoint_dir else ray_private.next_checkpoint(self)
        if place is None:
            return super().save(checkpoint_dir and str(resolve(checkpoint_dir)[1]))
        filesystem, path = place
        use_msgpack = ray_private.uses_msgpack(self.config)
        self.save_to_path(path, filesystem=filesystem, use_msgpack=use_msgpack)
        return ray_private.saved_checkpoint(self)

    @override(Algorithm)
    def restore(self, checkpoint_path: Any) -> None:
        if isinstance(checkpoint_path, str | pathlib.Path):  # Tune takes absolute ones only
            filesystem, root = resolve(checkpoint_path)
            checkpoint_path = Checkpoint(root, filesystem)
        super().restore(checkpoint_path)

    @override(Algorithm)
    def save_to_path(
        self,
        path: str | pathlib.Path | None = None,
        *,
        filesystem: fs.FileSystem | None = None,
        **kwargs: Any,
    ) -> str:
        """Writes a checkpoint from which a run resumes exactly.

        The checkpoint appears at `path` when it is complete. If saving fails, whatever was there
        before is still there. The replay list is streamed, a block at a time; iterations that an
        earlier checkpoint of this phase holds are linked from there.

        Args:
            path: Folder or URI; a new temporary folder by default.
            filesystem: File system of `path`, if `path` is not a URI.
            **kwargs: For RLlib's `save_to_path`.

        Returns:
            The path.

        Raises:
            OSError: Writing failed, for example because the disk is full.
        """
        filesystem, root = resolve(path or tempfile.mkdtemp(), filesystem)
        self._learners.retry_on_learner_loss(
            partial(
                save_checkpoint,
                filesystem,
                root,
                partial(super().save_to_path, **kwargs),
                config=self.config,
                env_runners=self._env_runners,
                learners=self._learners,
                modules=self.modules.values(),
            )
        )
        return str(path or root)

    @classmethod
    @override(Algorithm)
    def from_checkpoint(
        cls, path: Any, filesystem: fs.FileSystem | None = None, **kwargs: Any
    ) -> Algorithm:
        is_checkpoint = isinstance(path, Checkpoint)
        where = (path.path, path.filesystem) if is_checkpoint else (path, filesystem)
        filesystem, root = resolve(*where)
        check_format(root, filesystem)  # before RLlib unpickles anything
        return super().from_checkpoint(path if is_checkpoint else root, filesystem, **kwargs)

    @override(Algorithm)
    def restore_from_path(
        self,
        path: str | pathlib.Path,
        *,
        component: str | None = None,
        filesystem: fs.FileSystem | None = None,
        **kwargs: Any,
    ) -> None:
        """Restores a checkpoint, also an older one into an algorithm that is training already.

        Args:
            path: Folder or URI of the checkpoint.
            component: RLlib's component to restore alone; all by default.
            filesystem: File system of `path`, if `path` is not a URI.
            **kwargs: For RLlib's `restore_from_path`.

        Raises:
            ValueError: There is no checkpoint at `path`, it is damaged, or it does not fit this
                algorithm's settings. Nothing has changed then.
        """
        filesystem, root = resolve(path, filesystem)
        check_format(root, filesystem)
        restore_from_local = partial(super().restore_from_path, component=component, **kwargs)

        def restore_rllib_state(local: str) -> None:
            self._learners.discard_recovery_point()
            restore_from_local(local)
            self._force_weights()

        if component is None:
            restore_checkpoint(
                filesystem,
                root,
                restore_rllib_state,
                config=self.config,
                env_runners=self._env_runners,
                learners=self._learners,
                modules=self.modules.values(),
                env_steps=self._env_steps,
            )
        else:
            with local_copy(filesystem, root, without=REPLAY) as local:
                restore_rllib_state(local)
        self._learners.save_recovery_point()

    def _force_weights(self) -> None:
        """Gives all env runners the learners' weights, even if they are older than theirs."""
        state = self.learner_group.get_state(
            components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True
        )[COMPONENT_LEARNER]
        ref = ray.put({key: state[key] for key in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)})

        def force(env_runner: Any) -> None:
            ray_private.accept_any_weights(env_runner)
            env_runner.set_state(ray.get(ref))

        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                group.foreach_env_runner(force)

    # -- Weights, metrics, seeds, callbacks ----------------------------------------------------

    def _sync_weights(self) -> None:
        """Sends the policy networks to all env runners; the one broadcast of an iteration."""
        self._learners.retry_on_learner_loss(
            # Not bound to the group: there is another one after learners have died.
            lambda: self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group,
                policies=[*self.modules],
                inference_only=True,
                # Without waiting, a broadcast that follows another too soon is silently dropped.
                timeout_seconds=None,
            )
        )

    @override(Algorithm)
    def _compile_iteration_results(self, **kwargs: Any) -> dict[str, Any]:
        # RLlib repeats metrics that this iteration did not log as NaN. Leave those of the
        # auxiliary phase out instead, until the next one.
        results = super()._compile_iteration_results(**kwargs)
        for module_id in self.modules:
            metrics = results.get(LEARNER_RESULTS, {}).get(module_id, {})
            if np.isnan(tree.flatten(metrics.get("aux", {}))).any():
                metrics.pop("aux")
        return results

    def __repr__(self) -> str:
        # RLlib's fails before the config is set, and hides the error of a failed start.
        return type(self).__name__ if self.config is None else super().__repr__()

    def _next_seed(self) -> int:
        """Seed for the next phase's minibatches; the same sequence after a restore."""
        self._num_seeds += 1
        sequence = np.random.SeedSequence([self._seed, self._num_seeds])
        return int(sequence.generate_state(1)[0])

    def _env_steps(self) -> int:
        key = (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
        return int(self.metrics.peek(key, default=0))

    def _time(self, timer: str) -> Any:
        return self.metrics.log_time((TIMERS, timer))

    def _log_sampling(self, summaries: Iterable[RolloutSummary]) -> None:
        summaries = list(summaries)
        self._log_ppg(num_rollouts=len(summaries))
        self.metrics.aggregate([s.metrics for s in summaries], key=ENV_RUNNER_RESULTS)
        for summary in summaries:
            self._episodes.add(summary.episodes)
        self._episodes.log(self.metrics)

    def _log_ppg(self, **values: float) -> None:
        for key, value in values.items():
            self.metrics.log_value(("ppg", key), value, reduce="max", window=1)

    def _warn_of_few_rows(self, module: ModuleState, rows: int) -> None:
        """Warns once if a module has fewer segments than minibatches, of which some are empty."""
        config = module.config
        segments = rows * segments_per_row(config.rollout_fragment_length, config.steps_per_segment)
        if segments < config.num_minibatches and log_once(f"few_rows_of_{module.id}"):
            logger.warning(
                "%s has %d segments in this iteration, fewer than num_minibatches=%d: set fewer "
                "minibatches, or a smaller segment_length or rollout_fragment_length",
                module.id,
                segments,
                config.num_minibatches,
            )

    def _log_replay_lists(self) -> None:
        replays = [m.replay for m in self.modules.values() if m.config.has_aux_phase]
        if replays:
            self._log_ppg(
                policy_iteration=max(map(len, replays)),
                replay_states=sum(replay.states for replay in replays),
                replay_bytes=sum(replay.nbytes for replay in replays),
                num_aux_phases_lifetime=self._num_aux_phases,
            )

    def _on_aux_epoch_end(self, module: ModuleState, epoch: int) -> None:
        for callback in self.callbacks:
            if isinstance(callback, PPGCallback):
                callback.on_aux_epoch_end(
                    algorithm=self,
                    metrics_logger=self.metrics,
                    module_id=module.id,
                    epoch=epoch,
                    num_epochs=module.config.e_aux,
                )
