"""A checkpoint's policy and settings, read from its files: without Ray, learners or replay list.

A checkpoint is pickled Python, which can run any code when it is read. Load only checkpoints that
you trust.
"""

from __future__ import annotations

import pathlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import ray.cloudpickle as pickle
import tree
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
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.spaces.space_utils import get_base_struct_from_space, get_original_space
from ray.rllib.utils.typing import ModuleID

from rllib_ppg import ray_private
from rllib_ppg.checkpoint.folder import check_checkpoint, check_format, resolve
from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.envs.packed_observations import (
    Packing,
    forbids_all,
    packing_of,
    with_masks,
)
from rllib_ppg.envs.procgen_levels import procgen_game
from rllib_ppg.inference.observations import as_batch
from rllib_ppg.inference.policy import Policy

# Where the networks lie in a checkpoint, in folders by the ids of their policies.
MODULES = (COMPONENT_LEARNER_GROUP, COMPONENT_LEARNER, COMPONENT_RL_MODULE)
ANY = "*"  # whichever policy of a multi-agent run


def load_policy(checkpoint: str | pathlib.Path, module_id: ModuleID | None = None) -> TrainedPolicy:
    """Loads the policy of a checkpoint; Ray is not started.

    Examples:
        >>> import gymnasium as gym
        >>> from rllib_ppg import load_policy
        >>> policy = load_policy("results/my_run")  # doctest: +SKIP
        >>> env = gym.make("CartPole-v1")
        >>> obs, info = env.reset()
        >>> action, _ = policy.predict(obs, deterministic=True)  # doctest: +SKIP

    Args:
        checkpoint: Folder or URI of a checkpoint; or of a trial, or an experiment with one trial,
            whose newest checkpoint is loaded.
        module_id: Which policy of a multi-agent run; None if there is one, `ANY` for any.

    Raises:
        ValueError: There is no checkpoint, another version of this package wrote it, it is of
            RLlib's old API stack, it has several policies and `module_id` names none of them, or
            something that it refers to can't be imported.
    """
    checkpoint = find_checkpoint(str(checkpoint))
    check_format(checkpoint)
    filesystem, root = resolve(checkpoint)
    try:
        config = _read_config(filesystem, root)
        if not config.enable_rl_module_and_learner:
            raise ValueError(f"{checkpoint} is of RLlib's old API stack, which has no RLModule")
        ids = _folders(filesystem, "/".join((root, *MODULES)))
        first = module_id == ANY or (module_id is None and len(ids) == 1)
        chosen = ids[0] if first else module_id
        if chosen not in ids:
            what = "" if module_id is None else f"{module_id!r} is none of them, "
            raise ValueError(
                f"{checkpoint} has the policies {', '.join(ids)}: {what}name one (module_id)"
                f"{did_you_mean(str(module_id), ids)}"
            )
        path = "/".join((root, *MODULES, str(chosen)))
        module = RLModule.from_checkpoint(path, filesystem=filesystem)
    except (ImportError, AttributeError) as e:
        raise ValueError(f"{checkpoint} can't be read here: {e}") from e
    module.eval()
    env_steps = _read_env_steps(filesystem, root)
    return TrainedPolicy(checkpoint, config, module, env_steps, str(chosen))


@dataclass(frozen=True)
class TrainedPolicy:
    """The policy of a checkpoint, as `load_policy` returns it.

    Attributes:
        checkpoint: Folder or URI of the checkpoint.
        config: Settings of the training; not frozen.
        module: The networks.
        env_steps: Env steps of the training; None if the checkpoint does not say.
        module_id: The policy's id in the checkpoint.
    """

    checkpoint: str
    config: AlgorithmConfig
    module: RLModule
    env_steps: int | None
    module_id: ModuleID = DEFAULT_MODULE_ID

    @property
    def observation_space(self) -> gym.Space:
        """The env's own observation space."""
        return get_original_space(self.module.observation_space)

    @property
    def action_space(self) -> gym.Space:
        """The env's own action space."""
        return self.module.action_space

    def predict(
        self,
        obs: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Chooses actions, with the same signature as in Stable-Baselines3 and sb3-contrib.

        Sampled actions follow from the global seeds of numpy and torch at the first call.

        Args:
            obs: An observation of the env, or a batch of B observations as a vector env returns
                them: arrays `[B, ...]`, in Dicts and Tuples if the space is one.
            state: Of a recurrent policy, the state that the last call returned; None at the start.
            episode_start: Of a recurrent policy, which of the observations are the first of an
                episode, `[B]` bool: their states begin anew.
            deterministic: Whether to take the most probable actions; otherwise they are sampled.
            action_masks: Which actions are allowed, `[n]` or `[B, n]`, in place of the masks in the
                observations; `obs` may then be what lies beside them. None: what the observations
                say.

        Returns:
            An action that `env.step` takes, or a batch of them; and the next state, an array
            `[B, D]`, or None for a policy without a memory.

        Raises:
            ValueError: These are no observations of the env or no states of the policy, a mask
                forbids all actions, or the networks alone are not the policy (one behind
                connectors).
        """
        if action_masks is not None:
            obs = with_masks(self.observation_space, obs, action_masks)
        batch, is_single = as_batch(self.observation_space, obs)
        self.check_masks(batch)
        states = self._states(state, episode_start, len(batch))
        actions, _, states = self._policy.act(batch, states, explore=not deterministic)
        actions = tree.map_structure(
            lambda a, part: np.asarray(a, part.dtype)[0 if is_single else slice(None)],
            self._policy.for_env(actions),
            get_base_struct_from_space(self.action_space),
        )
        return actions, states if states.size else None

    def _states(self, state: Any, episode_start: Any, B: int) -> np.ndarray:
        initial = np.tile(self._policy.initial_state, (B, 1))
        if state is None or not initial.size:
            return initial
        states = np.array(state, np.float32)
        if states.shape != initial.shape:
            raise ValueError(
                f"the state has shape {states.shape}, and {B} observations need {initial.shape}: "
                "give what predict() returned last, or None at the start"
            )
        if episode_start is not None:
            first = np.broadcast_to(np.asarray(episode_start, bool), B)
            states[first] = initial[first]
        return states

    @cached_property
    def _packing(self) -> Packing | None:
        return packing_of(self.module.observation_space)

    def check_masks(self, batch: np.ndarray) -> None:
        """Raises ValueError if a mask in observations `[B, ...]` of a vector env forbids all."""
        if self._packing is None or self._packing.mask is None:
            return
        if forbids_all(self._packing.masks(batch), self.action_space).any():
            raise ValueError("an action mask forbids all actions")

    @cached_property
    def _policy(self) -> Policy:
        self.check_networks_suffice()
        return self.policy_for(self.config, np.random.randint(2**31))

    def all_modules(self) -> MultiRLModule:
        """The networks of all policies of a multi-agent run."""
        filesystem, root = resolve(self.checkpoint)
        path = "/".join((root, *MODULES))
        modules = MultiRLModule.from_checkpoint(path, filesystem=filesystem)
        for module_id in modules.keys():  # noqa: SIM118 (iterating gives no ids)
            modules[module_id].eval()
        return modules

    def policy_for(self, config: AlgorithmConfig, seed: int) -> Policy:
        """The policy ready to act.

        Args:
            config: How actions are given to the env.
            seed: Seed for sampled actions.
        """
        return Policy(
            self.module,
            np.random.default_rng(seed),
            normalize_actions=config.normalize_actions,
            clip_actions=config.clip_actions,
        )

    def check_networks_suffice(self) -> None:
        """Raises ValueError unless the networks alone turn an observation into an action."""
        connector = ray_private.given_setting(self.config, "env_to_module_connector")
        if connector:
            raise ValueError(
                "the policy sees observations through its env_to_module_connector, which is not "
                "part of its networks"
            )

    @property
    def env_runner_state(self) -> tuple[fs.FileSystem, str]:
        """File system and folder of the env runner's state, which holds RLlib's connectors."""
        filesystem, root = resolve(self.checkpoint)
        return filesystem, f"{root}/{COMPONENT_ENV_RUNNER}"

    def config_with(
        self,
        *,
        env: str | None = None,
        env_config: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> AlgorithmConfig:
        """The config of the training with the changes of its evaluation, and other changes.

        The changes of the evaluation are `explore` and `env_config` of `evaluation_config`. For
        Procgen `env_config` is ignored, because `rllib evaluate` compares the levels itself.

        Args:
            env: Another environment.
            env_config: Settings of the env, merged into the others.
            config: Settings of the algorithm.

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
    """The checkpoint at `path`, or the newest one of the trial at `path`.

    Args:
        path: Folder or URI of a checkpoint, of a trial, or of an experiment with one trial.

    Raises:
        ValueError: There is no checkpoint, it is incomplete, or there are several trials.
    """
    filesystem, root = resolve(path)
    if not _is_checkpoint(filesystem, root):
        newest = newest_checkpoints(path)
        if len(newest) > 1:
            raise ValueError(
                f"{path} has checkpoints of {len(newest)} trials: name one, as in {min(newest)}"
            )
        path = next(iter(newest.values()), path)
    check_checkpoint(path, replay=False)
    return path


def newest_checkpoints(path: str) -> dict[str, str]:
    """The newest checkpoint of the trial at `path`, or of each trial in it, by the trials' paths.

    Args:
        path: Folder or URI of a trial or an experiment.
    """
    filesystem, root = resolve(path)
    base = path.rstrip("/")
    trials = [base, *(f"{base}/{name}" for name in _folders(filesystem, root))]
    return {trial: found for trial in trials if (found := _newest_checkpoint(trial))}


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
    return _is_file(filesystem, f"{root}/{Algorithm.METADATA_FILE_NAME}")


def _is_file(filesystem: fs.FileSystem, path: str) -> bool:
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def _read_config(filesystem: fs.FileSystem, root: str) -> AlgorithmConfig:
    with filesystem.open_input_stream(f"{root}/{Algorithm.CLASS_AND_CTOR_ARGS_FILE_NAME}") as file:
        [state], _ = pickle.load(file)["ctor_args_and_kwargs"]
    config = AlgorithmConfig.from_state(state).copy(copy_frozen=False)
    # The callbacks of the training, such as the command's progress display.
    config.callbacks_class = []
    return config


def _read_env_steps(filesystem: fs.FileSystem, root: str) -> int | None:
    try:
        with filesystem.open_input_stream(f"{root}/{Algorithm.STATE_FILE_NAME}.pkl") as file:
            stats = pickle.load(file)["metrics_logger"]["stats"]
        key = f"{ENV_RUNNER_RESULTS}--{NUM_ENV_STEPS_SAMPLED_LIFETIME}"
        return int(stats[key][stats[key]["stats_cls_identifier"]])
    except (OSError, KeyError):  # RLlib may change its format
        return None
