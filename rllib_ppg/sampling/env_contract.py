"""Checks that a vector env returns what gymnasium's API says, and says in a sentence if not.

Shapes: N envs.
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import iterate

from rllib_ppg.envs import env_state, packed_observations, spaces, vector_env
from rllib_ppg.envs.packed_observations import ObservationError, forbids_all

_SIGNATURES = {
    "reset": "reset(*, seed, options) -> (observation, info)",
    "step": "step(action) -> (observation, reward, terminated, truncated, info)",
}
# Modules that call an env and take apart what it returns. An error raised in these, and not in the
# env's own code, means that the env does not follow gymnasium's API.
_FRAMEWORK_MODULES = (
    __name__, vector_env.__name__, env_state.__name__, spaces.__name__,
    packed_observations.__name__,
    "gymnasium.vector.", "gymnasium.wrappers.", "gymnasium.core", "gymnasium.spaces.",
    "gymnasium.utils.", "numpy", "functools", "copy",
)  # fmt: skip
# Raises in this process what an env raised in its own, so its frames say nothing about the cause.
_ASYNC = "gymnasium.vector.async_vector_env"
# For each kind of dtype: the kinds that convert to it without changing their meaning.
_TAKES = {"f": "fiub", "i": "iub", "u": "ub", "b": "biu"}
_KINDS = {"f": "numbers", "i": "whole numbers", "u": "unsigned whole numbers", "b": "booleans"}


class EnvStepError(RuntimeError):
    """A call of the env raised; `restart_failed_sub_environments` makes the envs once more."""


class EnvContract:
    """Calls a vector env and checks what it returns.

    Args:
        env: The vector env.
        owner: Whose env it is, as error sentences name it: "env runner 1 (CartPole-v1)".
    """

    def __init__(self, env: VectorEnv, owner: str):
        self._env, self._owner = env, owner
        space = env.single_observation_space
        self._shape, self._dtype = (env.num_envs, *space.shape), space.dtype

    def reset(self, seed: int | None) -> np.ndarray:
        """Resets all envs and returns their observations `[N, ...]`.

        Raises:
            EnvStepError: The call raised.
            ValueError: The envs returned something else than observations of their space.
        """
        try:
            obs, infos = self._env.reset(seed=seed)
        except ObservationError as e:
            raise self._observation_error(e, 0) from e
        except Exception as e:
            raise self._call_error("reset", e) from e
        obs = self._checked_obs(obs, infos)
        self.check_finite("observation", obs, 0)
        return obs

    def step(
        self, actions: Any, t: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all envs.

        Args:
            actions: Actions as the envs take them.
            t: Number of the step in the rollout, for error sentences.

        Returns:
            Observations `[N, ...]` in the dtype of their space; rewards, terminated and truncated
            `[N]`; infos.

        Raises:
            EnvStepError: The call raised.
            ValueError: The envs returned something else.
        """
        try:
            obs, rewards, terminated, truncated, infos = self._env.step(actions)
        except ObservationError as e:
            raise self._observation_error(e, t) from e
        except Exception as e:
            raise self._call_error("step", e, self._outside(actions)) from e
        if not self._conforms_to_gymnasium(obs, rewards, terminated, truncated, infos):
            obs = self._checked_obs(obs, infos)
            rewards = self._checked("rewards", rewards, self._shape[:1], "f")
            terminated = self._checked("terminated", terminated, self._shape[:1], "b")
            truncated = self._checked("truncated", truncated, self._shape[:1], "b")
        self.check_finite("observation", obs, t)
        return obs, rewards, terminated, truncated, infos

    def check_masks(self, masks: np.ndarray, envs: np.ndarray, t: int) -> None:
        """Raises ValueError if an action mask forbids all actions.

        Args:
            masks: The masks of the states that are acted on, `[k, n]` bool.
            envs: The numbers of their envs, `[k]`.
            t: Number of the step in the rollout, for the error.
        """
        forbidden = forbids_all(masks, self._env.single_action_space)
        if forbidden.any():
            raise ValueError(
                f"{self._owner}: the action_mask of env {envs[forbidden][0]} forbids all actions "
                f"at step {t} of the rollout"
            )

    def final_obs(self, infos: dict[str, Any], n: int, t: int) -> np.ndarray:
        """A copy of the last observation of env n's episode, which step t of the rollout truncated.

        Raises:
            ValueError: There is none in the infos.
        """
        if "final_obs" not in infos:
            raise ValueError(
                f"{self._env} truncates episodes in SAME_STEP autoreset mode without "
                "infos['final_obs'], which PPG needs to bootstrap the value of a truncated episode"
            )
        try:
            obs = infos["final_obs"][n]
        except (TypeError, LookupError):
            obs = None
        obs = self._checked(f"infos['final_obs'][{n}]", obs, self._shape[1:], self._dtype.kind)
        self.check_finite("observation", obs[None], t, first_env=n)
        return obs.copy()  # the env may write the next one into the same array

    def check_finite(self, name: str, x: np.ndarray, t: int, first_env: int = 0) -> None:
        """Raises ValueError for NaN or infinite numbers.

        Args:
            name: What `x` is, for the sentence.
            x: An array `[N, ...]`.
            t: Number of the step in the rollout.
            first_env: Number of the env that `x` begins with.
        """
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            n = first_env + int(np.argwhere(~np.isfinite(x))[0][0])
            raise ValueError(
                f"NaN or infinite {name} from env {n} of {self._owner}, step {t} of the rollout; "
                "the weights are unchanged"
            )

    def _conforms_to_gymnasium(
        self, obs: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any
    ) -> bool:
        """Whether a step returned just what gymnasium says. The common case, so one quick check."""
        try:
            return (
                obs.shape == self._shape
                and obs.dtype == self._dtype
                and obs.flags.c_contiguous
                and rewards.shape == terminated.shape == truncated.shape == self._shape[:1]
                and rewards.dtype.kind == "f"
                and terminated.dtype.kind == truncated.dtype.kind == "b"
                and type(infos) is dict
            )
        except AttributeError:  # a list, say
            return False

    def _checked_obs(self, obs: Any, infos: Any) -> np.ndarray:
        obs = self._checked("observations", obs, self._shape, self._dtype.kind)
        if not isinstance(infos, dict):
            raise ValueError(
                f"{self._owner} returned infos of type {type(infos).__name__}, not a dict"
            )
        if obs.dtype != self._dtype or min(obs.strides) < 0:  # torch refuses mirrored arrays
            obs = np.ascontiguousarray(obs, self._dtype)
        return obs

    def _checked(self, name: str, x: Any, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """`x` as an array, if it has this shape and converts to this kind of dtype."""
        try:
            x = np.asarray(x)
        except ValueError:  # arrays of several shapes
            x = np.empty((), object)
        if x.shape != shape or x.dtype.kind not in _TAKES[kind]:
            raise ValueError(
                f"{self._owner} returned {name} of shape {x.shape} and dtype {x.dtype}, not "
                f"{_KINDS[kind]} of shape {shape}"
            )
        return x

    def _observation_error(self, e: ObservationError, t: int) -> ValueError:
        env = "" if e.index is None else f"env {e.index} of "
        return ValueError(f"{e}: {env}{self._owner}, step {t} of the rollout")

    def _outside(self, actions: Any) -> str:
        """What to do about actions that are not in their space; "" if they are."""
        space = self._env.single_action_space
        with suppress(Exception):  # an env's own kind of space
            if not all(map(space.contains, iterate(self._env.action_space, actions))):
                return f" (there are actions outside {space}: clip_actions=True clips them)"
        return ""

    def _call_error(self, call: str, e: Exception, hint: str = "") -> EnvStepError:
        """The error to raise after a call of the envs has raised `e`."""
        what = " ".join(f"{type(e).__name__}: {e}{hint}".split())
        modules = [f.f_globals.get("__name__", "") for f, _ in traceback.walk_tb(e.__traceback__)]
        at_call = f"env.{call} of {self._owner}"
        in_framework = all(module.startswith(_FRAMEWORK_MODULES) for module in modules)
        if in_framework and _ASYNC not in modules:
            space = " ".join(f"{self._env.unwrapped.single_observation_space}".split())
            return EnvStepError(
                f"{at_call} is not gymnasium's {_SIGNATURES[call]}, with observations of {space}: "
                f"{what}"
            )
        return EnvStepError(f"{at_call} failed: {what}")
