"""Ray's private names that this package calls: one small function for each, and why.

Private names may change with any Ray release, so they stand in this one file.
`tests/test_ray_private.py` checks that each still exists. Private methods of RLlib that PPG
overrides stay in the classes that override them; the same test lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import RLock
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.experimental.internal_kv import _internal_kv_get
from ray.train._internal.checkpoint_manager import _CheckpointManager
from ray.train._internal.session import _TrainingResult
from ray.tune.registry import ENV_CREATOR, _global_registry

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.connectors.env_to_module import EnvToModulePipeline, MeanStdFilter
    from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.core.rl_module import MultiRLModuleSpec, RLModule
    from ray.rllib.env.env_runner_group import EnvRunnerGroup
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
    from ray.rllib.utils.actor_manager import FaultTolerantActorManager
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
    from ray.tune.experiment import Trial

# -- Actors ------------------------------------------------------------------------------------


def actor_id(actor: ActorHandle) -> str:
    """Hexadecimal id of an actor, as in `RayActorError.actor_id`.

    A handle has no public id. A public property would replace this.
    """
    return str(actor._actor_id.hex())


def learner_actors(group: LearnerGroup) -> list[ActorHandle]:
    """Handles of a group's remote learners; empty if its learner is local.

    `LearnerGroup.foreach_learner` returns one object for a call. PPG needs one object for each
    replay block, so it calls the actors with `num_returns`. A public list of actors would replace
    this.
    """
    return list(group._workers or ())


def local_learner(group: LearnerGroup) -> Learner:
    """The learner of a group that has it in this process.

    `foreach_learner` would do, but it wraps exceptions, whose types PPG needs.
    """
    return group._learner


def learner_resources(group: LearnerGroup) -> dict[str, float]:
    """Resources that each remote learner of a group reserves, by name.

    RLlib derives them from several settings. A public method of `AlgorithmConfig` that returns
    them would replace this.
    """
    return dict(group._backend_executor._resources_per_worker)


def mark_as_shut_down(group: LearnerGroup) -> None:
    """Tells a group that its learners are gone.

    Otherwise it calls them when it is deleted, and waits. A `shutdown(force=True)` would replace
    this.
    """
    group._is_shut_down = True


def module_spec(group: LearnerGroup) -> MultiRLModuleSpec:
    """The module spec that a group of learners was built with.

    It holds the spaces, so that a new group needs no env. A public property would replace this.
    """
    return group._module_spec


def env_runner_manager(group: EnvRunnerGroup) -> FaultTolerantActorManager:
    """The manager of a group's remote env runners, which knows the actors and their health.

    `foreach_env_runner` returns one object for a call and hides what an env raised. A public
    accessor would replace this.
    """
    return group._worker_manager


def ignores_dead_env_runners(group: EnvRunnerGroup) -> bool:
    """Whether the settings let a run continue after an env runner has died.

    RLlib derives it from two settings. A public property would replace this.
    """
    return bool(group._ignore_ray_errors_on_env_runners)


# -- Weights and modules -----------------------------------------------------------------------


def accept_any_weights(env_runner: SingleAgentEnvRunner) -> None:
    """Lets an env runner take weights that are older than its own.

    After a restore the learners count from a smaller number, and the env runner would ignore their
    weights. A `force` argument of `sync_weights` would replace this.
    """
    env_runner._weights_seq_no = 0


def forward_exploration(module: RLModule, batch: dict[str, Any]) -> dict[str, Any]:
    """`RLModule.forward_exploration` of a module that is in evaluation mode already.

    The public method walks over all submodules to set the mode, at every env step.
    """
    return module._forward_exploration(batch)


def forward_inference(module: RLModule, batch: dict[str, Any]) -> dict[str, Any]:
    """`RLModule.forward_inference` of a module that is in evaluation mode already.

    See `forward_exploration`.
    """
    return module._forward_inference(batch)


def forward_train(module: RLModule, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """`RLModule.forward_train` of a module whose mode is set already.

    The public method walks over all submodules to set the mode, at every micro-batch.
    """
    return module._forward_train(batch, **kwargs)


def lock_metrics(metrics: MetricsLogger) -> None:
    """Lets several threads use a metrics logger, whose lock does nothing.

    With `evaluation_parallel_to_training`, one compiles results while another adds to them.
    """
    metrics._threading_lock = RLock()


# -- RLlib's env runner, a step at a time ------------------------------------------------------


def env_to_module(env_runner: SingleAgentEnvRunner) -> EnvToModulePipeline:
    """The connectors between an env runner's env and its module.

    A public property would replace this.
    """
    return env_runner._env_to_module


def freeze_statistics(connector: MeanStdFilter) -> None:
    """Stops an observation filter from updating its statistics.

    They can be frozen only when the filter is made. A public setter would replace this.
    """
    connector._update_stats = False


def reset_envs(env_runner: SingleAgentEnvRunner, explore: bool) -> None:
    """Starts an episode in each env before the first `sample`, so that they can be rendered.

    A public `reset` would replace this.
    """
    env_runner._reset_envs_and_episodes(explore)


def drop_episodes(env_runner: SingleAgentEnvRunner) -> None:
    """Frees the episodes that an env runner keeps for metrics: 400 kB for each image.

    `get_metrics` frees only those that have ended. An option to keep none would replace this.
    """
    env_runner._ongoing_episodes_for_metrics.clear()
    env_runner._done_episodes_for_metrics.clear()


# -- Settings ----------------------------------------------------------------------------------


def given_setting(config: AlgorithmConfig, name: str) -> Any:
    """The value that a user gave for a setting; None if it was not set.

    Public properties of the same name merge it with defaults, or do not exist.
    """
    return getattr(config, f"_{name}")


def module_to_env(env_runner: SingleAgentEnvRunner) -> ModuleToEnvPipeline:
    """The connectors between an env runner's module and its env."""
    return env_runner._module_to_env


def keep_last_observations(env_runner: MultiAgentEnvRunner) -> None:
    """Makes episodes that have been cut know their agents' last observations.

    RLlib forgets them when it cuts an episode. An agent that then ends without another one, as in
    envs with turns, would lose its last step.
    """
    for episode in env_runner._ongoing_episodes:
        for agent in episode.agent_episodes.values():
            if agent._last_added_observation is None and agent.is_reset:
                agent._last_added_observation = agent.get_observations(-1)
                agent._last_added_infos = agent.get_infos(-1)


# -- Envs and the cluster ----------------------------------------------------------------------


def is_registered_env(name: str) -> bool:
    """Whether `ray.tune.register_env` knows a name. Its registry has no public reader."""
    return _global_registry.contains(ENV_CREATOR, name)


def registered_env(name: str) -> Callable[[Any], Any]:
    """The function that `ray.tune.register_env` was given for a name."""
    return _global_registry.get(ENV_CREATOR, name)


def autoscaler_status() -> bytes | None:
    """Report of the cluster's autoscaler as JSON; None if there is no autoscaler.

    `ray.nodes()` does not say whether somebody may add nodes. A public query would replace this.
    """
    return _internal_kv_get("__autoscaling_status")


# -- Tune --------------------------------------------------------------------------------------


def start_from(trial: Trial, path: str, filesystem: Any) -> None:
    """Lets a trial that is about to start restore a checkpoint first.

    This is what `tune.run(restore=...)` sets, for local folders only. A `restore` argument of
    `Tuner` that takes URIs would replace this. An RLlib callback does not work: it would be saved
    with every later checkpoint, and would restore again from there.
    """
    trial._restore_checkpoint_result = _training_result(path, filesystem, {})
    trial.invalidate_json_state()


def run_config(tuner: tune.Tuner) -> tune.RunConfig:
    """The run config of a Tuner in this process, which may be changed before `fit`.

    `Tuner.restore` takes no callbacks. It would replace this if it did.
    """
    return tuner._local_tuner.get_run_config()


def search_algorithm(tuner: tune.Tuner) -> Any:
    """The search algorithm of a Tuner in this process; None if it has none.

    A Tuner has no public attributes.
    """
    return tuner._local_tuner._tune_config.search_alg


def set_param_space(tuner: tune.Tuner, param_space: dict[str, Any]) -> None:
    """Gives a restored Tuner its first settings again, which Tune has not saved.

    `Tuner.restore` takes them, too, but here they are known only after it.
    """
    tuner._local_tuner.param_space = param_space


def next_checkpoint(algorithm: Algorithm) -> tuple[Any, str] | None:
    """File system and path of the next checkpoint of a trial; None outside of Tune.

    Tune has a checkpoint written to a temporary folder and copies it. A public way to write it
    where it stays would replace this and `saved_checkpoint`.

    Raises:
        RuntimeError: This node does not see the storage of the run.
    """
    storage = algorithm._storage
    if storage is None:
        return None
    storage._update_checkpoint_index(algorithm._last_result or {})
    storage._check_validation_file()
    return storage.storage_filesystem, storage.checkpoint_fs_path


def saved_checkpoint(algorithm: Algorithm) -> Any:
    """What `Trainable.save` returns for the checkpoint that `next_checkpoint` placed."""
    storage = algorithm._storage
    storage.persist_artifacts(force=storage.sync_config.sync_artifacts_on_checkpoint)
    path, filesystem = storage.checkpoint_fs_path, storage.storage_filesystem
    return _training_result(path, filesystem, dict(algorithm._last_result or {}))


def uses_msgpack(config: AlgorithmConfig) -> bool:
    """Whether RLlib's parts of a checkpoint are to be msgpack. There is no public getter."""
    return bool(config._use_msgpack_checkpoints)


def set_checkpoints(
    trial: Trial, checkpoints: Iterable[tuple[str, Any, Mapping[str, Any]]]
) -> None:
    """Replaces what Tune knows of a trial's checkpoints.

    Tune's state may name deleted checkpoints after a kill. A Tune that looks into the trial's
    folder would replace this.

    Args:
        trial: A trial that has not started.
        checkpoints: Path, file system and metrics of each checkpoint, oldest first.
    """
    manager = _CheckpointManager(trial.run_metadata.checkpoint_manager.checkpoint_config)
    for path, filesystem, metrics in checkpoints:
        manager.register_checkpoint(_training_result(path, filesystem, dict(metrics)))
    trial.run_metadata.checkpoint_manager = manager
    trial.run_metadata.invalidate_cache()
    trial.invalidate_json_state()


def _training_result(path: str, filesystem: Any, metrics: dict[str, Any]) -> Any:
    return _TrainingResult(tune.Checkpoint(path, filesystem), metrics)
