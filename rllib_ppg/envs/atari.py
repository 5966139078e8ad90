"""Atari games as gymnasium envs, with the stacked frames in the last axis, as networks need them.

`register` makes `atari-pong-v5` and the other ids known to gymnasium. These are the games of
`ALE/Pong-v5` (sticky actions, four frames a step) as ale_py's vector env shows them: 84 x 84 grey
pixels and four frames in a state. ale_py stacks the frames in the first axis, which a network for
H x W x C images would read as 4 x 84 pixels with 84 colours. ale_py is imported when an env is
made.

Shapes: N envs; a state is uint8 [84, 84, 4], the newest frame last.
"""

from __future__ import annotations

import importlib
import inspect
import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rllib_ppg.did_you_mean import did_you_mean

# The games of `ALE/<Game>-v5`.
_NAMES = """
adventure air_raid alien amidar assault asterix asteroids atlantis atlantis2 backgammon bank_heist
basic_math battle_zone beam_rider berzerk blackjack bowling boxing breakout carnival casino
centipede chopper_command crazy_climber crossbow darkchambers defender demon_attack donkey_kong
double_dunk earthworld elevator_action enduro entombed et fishing_derby flag_capture freeway
frogger frostbite galaxian gopher gravitar hangman haunted_house hero human_cannonball ice_hockey
jamesbond journey_escape kaboom kangaroo keystone_kapers king_kong klax koolaid krull
kung_fu_master laser_gates lost_luggage mario_bros miniature_golf montezuma_revenge mr_do ms_pacman
name_this_game othello pacman phoenix pitfall pitfall2 pong pooyan private_eye qbert riverraid
road_runner robotank seaquest sir_lancelot skiing solaris space_invaders space_war star_gunner
superman surround tennis tetris tic_tac_toe_3d time_pilot trondead turmoil tutankham up_n_down
venture video_checkers video_chess video_cube video_pinball wizard_of_wor word_zapper yars_revenge
zaxxon
"""
GAMES = tuple(_NAMES.split())
# ale_py 0.12.1 loses part of their states (Arcade-Learning-Environment#732).
_LOSSY_STATES = {"miniature_golf", "pitfall2", "qbert", "tetris", "tic_tac_toe_3d"}
# Options that this module sets, or that would make ale_py's vector env asynchronous.
_NOT_OPTIONS = {"self", "game", "num_envs", "batch_size", "autoreset_mode"}


class AtariVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N copies of a game, stepped by ale_py's threads, with SAME_STEP autoreset."""

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }
    _envs: Any = None  # until the options are checked

    def __init__(
        self, game: str, num_envs: int = 1, *, render_mode: str | None = None, **options: Any
    ) -> None:
        """Makes the games.

        Args:
            game: One of `GAMES`.
            num_envs: Number of copies N.
            render_mode: "rgb_array" lets `render` return the newest frames.
            **options: Options of `ale_py.vector_env.AtariVectorEnv`, such as `reward_clipping`
                (rewards are -1, 0 or 1; on by default), `episodic_life`, `grayscale`, `stack_num`,
                `repeat_action_probability` and `max_num_frames_per_episode`.

        Raises:
            ValueError: There is no such option, or ale_py is not installed.
        """
        vector_env_class = _import_vector_env_class()
        known = set(inspect.signature(vector_env_class.__init__).parameters) - _NOT_OPTIONS
        for name in options:
            if name not in known:
                raise ValueError(f"Atari has no option {name!r}{did_you_mean(name, known)}")
        self._envs = vector_env_class(
            game, num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options
        )
        self._frames: np.ndarray | None = None
        self.num_envs = num_envs
        self.render_mode = render_mode
        space = self._envs.single_observation_space
        self._colours = 1 if len(space.shape) == 3 else 3
        shape = _stack_last(np.empty((1, *space.shape), np.uint8)).shape[1:]
        self.single_observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.single_action_space = self._envs.single_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = self._envs.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes; returns states `[N, H, W, C]` and ale_py's infos."""
        states, infos = self._envs.reset(seed=seed, options=options)
        self._frames = _stack_last(states)
        return self._frames, infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all games; the last states of episodes that end are in `infos["final_obs"]`."""
        states, rewards, terminated, truncated, infos = self._envs.step(actions)
        if "final_obs" in infos:
            infos = {**infos, "final_obs": _stack_last(infos["final_obs"])}
        self._frames = _stack_last(states)
        return self._frames, rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns N uint8 [H, W, 3] pictures, or None without a render mode."""
        if self.render_mode is None or self._frames is None:
            return None
        newest = self._frames[..., -self._colours :]
        return tuple(np.broadcast_to(newest, (*newest.shape[:3], 3)).copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Frees the games."""
        if self._envs is not None:
            self._envs.close()


class AtariEnv(gym.Env[np.ndarray, np.int64]):
    """One copy of a game that shows what `AtariVectorEnv` shows, for `gymnasium.make`."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, game: str, *, render_mode: str | None = None, **options: Any) -> None:
        """Makes the game; arguments and errors are those of `AtariVectorEnv`."""
        self._envs = AtariVectorEnv(game, render_mode=render_mode, **options)
        self.render_mode = render_mode
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new episode; returns a state `[H, W, C]` and an empty dict."""
        super().reset(seed=seed)
        return self._envs.reset(seed=seed)[0][0], {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Returns a state, reward, terminated, truncated; at an episode's end its last state."""
        states, rewards, terminated, truncated, infos = self._envs.step(np.asarray([action]))
        ended = bool(terminated[0]), bool(truncated[0])
        state = infos["final_obs"][0] if any(ended) else states[0]
        return state, float(rewards[0]), *ended, {}

    def render(self) -> np.ndarray | None:
        """Returns a uint8 [H, W, 3] picture, or None without a render mode."""
        pictures = self._envs.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        """Frees the game."""
        self._envs.close()


def register() -> None:
    """Makes `atari-<game>-v5` known to gymnasium; repeating it is harmless.

    Options are keyword arguments: `gymnasium.make("atari-pong-v5", reward_clipping=False)`.
    """
    for game in GAMES:
        if f"atari-{game}-v5" not in gym.registry:
            gym.register(
                f"atari-{game}-v5",
                entry_point="rllib_ppg.envs.atari:AtariEnv",
                vector_entry_point="rllib_ppg.envs.atari:AtariVectorEnv",
                # As in `ALE/<Game>-v5`.
                kwargs={"game": game, "repeat_action_probability": 0.25},
            )


def stacked_first(spec: gym.envs.registration.EnvSpec) -> str | None:
    """The id here of one of ale_py's envs; None for other envs."""
    if not str(spec.vector_entry_point).startswith("ale_py."):
        return None
    return f"atari-{spec.kwargs['game']}-v5"


def get_ale_state(env: Any) -> dict[str, Any] | None:
    """The state of an `ale_py.AtariEnv` as plain data; None if ale_py can't save it exactly.

    ale_py's vector env, and so the envs above, gives no access to the states of its games. Playing
    them again from a seed would need a seed for each episode, which loads the ROM each time.
    """
    if env._game in _LOSSY_STATES or env.continuous:
        return None
    ale = env.ale
    state = ale.cloneState(include_rng=True)
    # The state lacks the action that sticky actions may repeat. The next frames tell which it is.
    future = _future(ale)
    for action in ale.getLegalActionSet():
        _set_ale(ale, state, action)
        if _future(ale) == future:
            _set_ale(ale, state, action)
            version = importlib.import_module("ale_py").__version__
            return {"version": version, "state": state.serialize(), "action": action.value}
    _set_ale(ale, state, action)
    return None


def set_ale_state(env: Any, saved: dict[str, Any]) -> None:
    """Restores what `get_ale_state` returned.

    Raises:
        ValueError: Another version of ale_py saved it.
    """
    ale_py = importlib.import_module("ale_py")
    if saved["version"] != ale_py.__version__:
        raise ValueError(f"it was saved by ale_py {saved['version']}, not {ale_py.__version__}")
    _set_ale(env.ale, ale_py.ALEState(saved["state"]), ale_py.Action(saved["action"]))


def _set_ale(ale: Any, state: Any, action: Any) -> None:
    for _ in range(_frames_to_act(ale)):
        ale.act(action)
    ale.restoreState(state)


def _future(ale: Any) -> list[bytes]:
    """The next states without an action, until the previous action can no longer repeat."""
    states = []
    for _ in range(_frames_to_act(ale)):
        ale.act(0)
        states.append(ale.cloneState(include_rng=True).serialize())
    return states


def _frames_to_act(ale: Any) -> int:
    """Number of frames after which an action has been taken, except once in 10^15 times."""
    sticky = ale.getFloat("repeat_action_probability")
    return math.ceil(math.log(1e-15, sticky)) if 0 < sticky < 1 else 1


def _stack_last(states: np.ndarray) -> np.ndarray:
    """Moves the stack last: `[N, stack, H, W, ...]` to `[N, H, W, C]`, C = stack or 3 x stack."""
    moved = np.moveaxis(states, 1, 3)
    return np.ascontiguousarray(moved).reshape(*moved.shape[:3], -1)


def _import_vector_env_class() -> Any:
    try:
        return importlib.import_module("ale_py.vector_env").AtariVectorEnv
    except ModuleNotFoundError as e:
        if e.name != "ale_py":
            raise
        raise ValueError("Atari is not installed: pip install ale_py") from e
