"""Experiments as Tune runs them: a new Tuner, or that of an interrupted run."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiments.checkpoint_settings import make_checkpoint_config
from rllib_ppg.experiments.mutations import parse_mutations
from rllib_ppg.experiments.settings import (
    ATTRIBUTES,
    EPISODE_RETURN_MEAN,
    absolute,
    by_attribute,
    reject_unknown,
)

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from ray import tune
    from ray.rllib.callbacks.callbacks import RLlibCallback
    from ray.tune.schedulers import TrialScheduler

    from rllib_ppg.experiments.experiment import Experiment

# Tune's names of schedulers by those that people know.
_SCHEDULERS = {"asha": "async_hyperband", "median": "median_stopping_rule"}


def make_tuner(
    experiment: Experiment,
    *,
    callbacks: Iterable[tune.Callback] = (),
    rllib_callbacks: Iterable[type[RLlibCallback]] = (),
) -> tune.Tuner:
    """Makes the Tuner that runs an experiment.

    Args:
        experiment: A valid experiment.
        callbacks: Tune's callbacks, called in this process.
        rllib_callbacks: RLlib's callbacks, called in the algorithm's process after those of the
            config.

    Raises:
        ValueError: A callback of the config can't be imported.
    """
    from ray import tune

    from rllib_ppg.callbacks import promote_metric
    from rllib_ppg.experiments.run_folder import run_name, storage_path
    from rllib_ppg.experiments.start_checkpoint import StartFromCheckpoint
    from rllib_ppg.experiments.trial_names import folder_name

    _allow_missing_metrics()
    callbacks = list(callbacks)
    if experiment.restore:
        callbacks.append(StartFromCheckpoint(absolute(experiment.restore)))
    config, name = by_attribute(experiment.run, experiment.config), run_name(experiment)
    search = experiment.parsed_search
    if search:
        config = dict(search.fixed)
    config |= _network_for_images(experiment, config)
    _register_envs(experiment)
    if score := experiment.checkpoint_config.get("checkpoint_score_attribute"):
        rllib_callbacks = [*rllib_callbacks, promote_metric(score)]
    if rllib_callbacks:
        config["callbacks_class"] = [*_config_callbacks(config), *rllib_callbacks]
        config.pop("callbacks", None)
    tune_config = tune.TuneConfig(
        num_samples=experiment.num_samples,
        scheduler=make_scheduler(experiment.scheduler, experiment.scheduler_config),
    )
    if search:
        from rllib_ppg.experiments.study import FILE, StudySearch

        check = partial(experiment.check_drawn, search.fixed)
        folder = f"{storage_path(experiment)}/{name}"
        Path(folder, FILE).unlink(missing_ok=True)  # of a run that failed before its first result
        tune_config.search_alg = StudySearch(search, folder, check, config)
        tune_config.num_samples = search.num_samples
        tune_config.trial_dirname_creator = folder_name
    return tune.Tuner(
        experiment.run,
        param_space=config,
        tune_config=tune_config,
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage_path(experiment),
            stop=dict(experiment.stop),
            checkpoint_config=make_checkpoint_config(experiment.checkpoint_config),
            failure_config=tune.FailureConfig(max_failures=experiment.max_failures),
            callbacks=callbacks,
            verbose=0,
        ),
    )


def resume_tuner(
    experiment: Experiment, callbacks: Iterable[tune.Callback], keep: type[tune.Callback]
) -> tuple[tune.Tuner, list[tune.Callback]]:
    """Makes the Tuner that resumes an interrupted run of an experiment.

    Trials resume from their last checkpoints with their first settings; trials without a checkpoint
    start again.

    Args:
        experiment: The experiment; only its name, algorithm and storage path are used.
        callbacks: Tune's callbacks, called in this process.
        keep: Class of the first run's callbacks that are called again.

    Returns:
        The Tuner, and the callbacks of the first run that are called again.

    Raises:
        ValueError: There is nothing to resume, or another version of this package wrote it.
    """
    from ray import tune

    from rllib_ppg import ray_private
    from rllib_ppg.experiments.start_checkpoint import StartFromCheckpoint

    _allow_missing_metrics()
    _register_envs(experiment)
    folder = find_saved_run(experiment)
    try:
        tuner = tune.Tuner.restore(folder, trainable=experiment.run, resume_errored=True)
    except (ImportError, AttributeError) as error:
        extra = ": pip install 'rllib-ppg[search]'" if "optuna" in str(error) else ""
        raise ValueError(f"the run in {folder} can't be read here: {error}{extra}") from error
    if search := ray_private.search_algorithm(tuner):
        search.move_to(folder)  # it may have been renamed
        ray_private.set_param_space(tuner, search.param_space)
    # Tune pickled the callbacks of the first run with their state.
    run_config = ray_private.run_config(tuner)
    kept = [c for c in run_config.callbacks or () if isinstance(c, (keep, StartFromCheckpoint))]
    run_config.callbacks = [*callbacks, *kept]
    return tuner, kept


def find_saved_run(experiment: Experiment) -> str:
    """The folder or URI of an experiment's earlier run.

    Raises:
        ValueError: The experiment has no name, or none of a folder, there is no such run, or this
            version can't read its checkpoints.
    """
    from pyarrow.fs import FileType

    from rllib_ppg.checkpoint.folder import resolve
    from rllib_ppg.experiments.run_folder import check_run_name, runs_in, storage_path

    if experiment.name is None:
        raise ValueError("--resume needs the name of the experiment that it resumes: -n NAME")
    check_run_name(experiment.name)
    storage = storage_path(experiment)
    folder = f"{storage}/{experiment.name}"
    filesystem, path = resolve(folder)
    if filesystem.get_file_info(f"{path}/tuner.pkl").type != FileType.File:
        hint = did_you_mean(experiment.name, runs_in(storage))
        raise ValueError(f"there is nothing to resume in {folder}{hint}")
    _check_formats(filesystem, path)
    return folder


def _check_formats(filesystem: FileSystem, path: str) -> None:
    """Refuses checkpoints of other versions, before Tune unpickles anything of their run."""
    from pyarrow.fs import FileSelector

    from rllib_ppg.checkpoint.folder import check_format

    for trial in filesystem.get_file_info(FileSelector(path)):
        if trial.is_file:
            continue
        for file in filesystem.get_file_info(FileSelector(trial.path)):
            if file.base_name.startswith("checkpoint_"):
                check_format(file.path, filesystem)


def make_scheduler(
    scheduler: str | TrialScheduler | None, config: Mapping[str, Any]
) -> TrialScheduler | None:
    """Makes a Tune scheduler.

    Args:
        scheduler: Name of a scheduler; anything else is returned as it is.
        config: Arguments of the scheduler of that name.

    Raises:
        ValueError: There is no such scheduler, or it does not take these arguments.
    """
    from ray.tune.error import TuneError
    from ray.tune.schedulers import SCHEDULER_IMPORT, TrialScheduler, create_scheduler

    if not isinstance(scheduler, str):
        if not isinstance(scheduler, TrialScheduler | None):
            raise ValueError(f"scheduler must be the name of one, as in asha, not {scheduler!r}")
        if config:
            raise ValueError("scheduler_config needs a scheduler's name, as in scheduler: pbt")
        return scheduler
    name = _SCHEDULERS.get(scheduler.lower(), scheduler.lower())
    if name not in SCHEDULER_IMPORT:
        names = [*_SCHEDULERS, *SCHEDULER_IMPORT]
        raise ValueError(
            f"there is no scheduler {scheduler!r}, there are "
            f"{', '.join(names)}{did_you_mean(name, names)}"
        )
    cls = SCHEDULER_IMPORT[name]
    known = inspect.signature(cls() if inspect.isfunction(cls) else cls).parameters
    reject_unknown(config, known, f"scheduler {scheduler}")
    # Ray leaves out what the scheduler does not take.
    defaults = {"metric": EPISODE_RETURN_MEAN, "mode": "max"}
    try:
        return create_scheduler(name, **{**defaults, **parse_mutations(config)})
    except (TypeError, ValueError, AssertionError, TuneError) as error:
        raise ValueError(f"scheduler {scheduler}: {error}") from error


def _network_for_images(experiment: Experiment, config: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's network for PPO on images; RLlib's own network does not take uint8 images."""
    if experiment.run != "PPO" or {*ATTRIBUTES.values(), "model"} & set(config):
        return {}
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from rllib_ppg.envs.vector_env import probe_spaces
    from rllib_ppg.networks.ppo_rl_module import ImpalaPPOModule

    _, first = next(experiment.variants())
    merged = experiment.algorithm.get_default_config().update_from_dict(first)
    try:
        observations, _ = probe_spaces(merged)
    except ValueError:  # a multi-agent env, or one that only RLlib can make
        return {}
    if len(observations.shape) != 3 or observations.dtype != np.uint8:
        return {}
    return {"_rl_module_spec": RLModuleSpec(module_class=ImpalaPPOModule)}


def _register_envs(experiment: Experiment) -> None:
    """Makes envs of modules and files known to RLlib's own algorithms; PPG finds them itself."""
    if experiment.run == "PPG":
        return
    import gymnasium as gym
    from ray import tune
    from ray.rllib.algorithms import AlgorithmConfig

    from rllib_ppg.envs.env_creator import is_tune_registered, make_env

    for _, config in experiment.variants():
        env = config.get("env")
        if isinstance(env, str) and env not in gym.registry and not is_tune_registered(env):
            tune.register_env(env, partial(make_env, AlgorithmConfig().environment(env)))


def _config_callbacks(config: Mapping[str, Any]) -> list[type[RLlibCallback]]:
    from ray.rllib.utils import force_list
    from ray.rllib.utils.serialization import deserialize_type

    callbacks = force_list(config.get("callbacks_class", config.get("callbacks")))
    return [deserialize_type(callback, error=True) for callback in callbacks]


def _allow_missing_metrics() -> None:
    # An iteration in which no episode ended has no mean return. Tune would end the run.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
