"""A checkpoint's policy and settings, read from its files: no Ray, no learners, no replay list.

A checkpoint is pickled Python, which runs what it says when it is read: load only your own, or
those of somebody you trust.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray.cloudpickle as pickle
from pyarrow import fs
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import (
    COMPONENT_ENV_RUNNER,
    COMPONENT_LEARNER,
    COMPONENT_LEARNER_GROUP,
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
)
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from rllib_ppg.checkpoint.folder import check_checkpoint, resolve
from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.envs.procgen_levels import procgen_game

_MODULE = (COMPONENT_LEARNER_GROUP, COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID)


@dataclass(frozen=True)
class TrainedPolicy:
    """A policy as a checkpoint has it.

    Attributes:
        checkpoint: its folder or URI.
        config: the settings that it was trained with; not frozen.
        module: its networks.
        env_steps: env steps that it was trained for; None if the checkpoint does not say.
    """

    checkpoint: str
    config: AlgorithmConfig
    module: RLModule
    env_steps: int | None

    @classmethod
    def load(cls, path: str) -> TrainedPolicy:
        """Reads the checkpoint at, or newest below, `path` (see `find_checkpoint`).

        Raises:
            ValueError: There is none, it is of a multi-agent algorithm or RLlib's old API stack,
                or what it needs to be read can't be imported here.
        """
        checkpoint = find_checkpoint(path)
        filesystem, root = resolve(checkpoint)
        try:
            config = _read_config(filesystem, root)
            _check_single_agent(config, checkpoint)
            module = RLModule.from_checkpoint("/".join((root, *_MODULE)), filesystem=filesystem)
        except (ImportError, AttributeError) as e:
            raise ValueError(f"{checkpoint} can't be read here: {e}") from e
        module.eval()
        return cls(checkpoint, config, module, _read_env_steps(filesystem, root))

    @property
    def env_runner_state(self) -> tuple[fs.FileSystem, str]:
        """File system and folder of the env runner's state: RLlib's connectors."""
        filesystem, root = resolve(self.checkpoint)
        return filesystem, f"{root}/{COMPONENT_ENV_RUNNER}"

    def config_with(
        self,
        *,
        env: str | None = None,
        env_config: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> AlgorithmConfig:
        """The training's config, as its evaluation changes it, with other settings.

        Of `evaluation_config` these are `explore`, and `env_config` but for Procgen, whose levels
        are compared.

        Args:
            env: another environment.
            env_config: merged into that.
            config: settings of the algorithm.

        Raises:
            ValueError: There is no such setting.
        """
        changed = self.config.copy(copy_frozen=False)
        evaluation = self.config.evaluation_config
        evaluation = evaluation if isinstance(evaluation, Mapping) else {}
        changed.explore = evaluation.get("explore", changed.explore)
        if procgen_game(changed.env) is None:
            changed.env_config = {**changed.env_config, **evaluation.get("env_config", {})}
        for key in config or {}:
            if not hasattr(changed, key):
                hint = did_you_mean(key, vars(changed))
                raise ValueError(f"{type(changed).__name__} has no setting {key!r}{hint}")
        changed.update_from_dict(dict(config or {}))
        if env is not None:
            changed.environment(env)
        changed.env_config = {**changed.env_config, **(env_config or {})}
        return changed


def find_checkpoint(path: str) -> str:
    """The checkpoint at `path`, or the newest of the one trial there.

    Args:
        path: folder or URI of a checkpoint, of a trial, or of an experiment with one trial.

    Raises:
        ValueError: There is no checkpoint, or there are several trials' checkpoints.
    """
    filesystem, root = resolve(path)
    if not _is_checkpoint(filesystem, root):
        base = path.rstrip("/")
        trials = [base, *(f"{base}/{name}" for name in _folders(filesystem, root))]
        newest = {trial: found for trial in trials if (found := _newest_checkpoint(trial))}
        if len(newest) > 1:
            raise ValueError(
                f"{path} has checkpoints of {len(newest)} trials: name one, as in {min(newest)}"
            )
        if newest:
            return next(iter(newest.values()))
    check_checkpoint(path, replay=False)
    return path


def _newest_checkpoint(trial: str) -> str | None:
    filesystem, root = resolve(trial)
    names = [
        name
        for name in _folders(filesystem, root)
        if name.startswith("checkpoint_") and _is_checkpoint(filesystem, f"{root}/{name}")
    ]
    return f"{trial}/{max(names)}" if names else None


def _folders(filesystem: fs.FileSystem, root: str) -> list[str]:
    found = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
    return sorted(posixpath.basename(f.path) for f in found if f.type == fs.FileType.Directory)


def _is_checkpoint(filesystem: fs.FileSystem, root: str) -> bool:
    marker = f"{root}/{Algorithm.METADATA_FILE_NAME}"
    return filesystem.get_file_info(marker).type == fs.FileType.File


def _read_config(filesystem: fs.FileSystem, root: str) -> AlgorithmConfig:
    with filesystem.open_input_stream(f"{root}/{Algorithm.CLASS_AND_CTOR_ARGS_FILE_NAME}") as file:
        [state], _ = pickle.load(file)["ctor_args_and_kwargs"]
    config = AlgorithmConfig.from_state(state).copy(copy_frozen=False)
    # The command's progress display among them, which has no business here.
    config.callbacks_class = []
    return config


def _check_single_agent(config: AlgorithmConfig, checkpoint: str) -> None:
    if not config.enable_rl_module_and_learner:
        raise ValueError(f"{checkpoint} is of RLlib's old API stack, which has no RLModule")
    if config.is_multi_agent:
        raise ValueError(f"{checkpoint} is of a multi-agent algorithm: only single agents can play")


def _read_env_steps(filesystem: fs.FileSystem, root: str) -> int | None:
    try:
        with filesystem.open_input_stream(f"{root}/{Algorithm.STATE_FILE_NAME}.pkl") as file:
            stats = pickle.load(file)["metrics_logger"]["stats"]
        key = f"{ENV_RUNNER_RESULTS}--{NUM_ENV_STEPS_SAMPLED_LIFETIME}"
        return int(stats[key][stats[key]["stats_cls_identifier"]])
    except (OSError, KeyError):  # RLlib's to change
        return None
