"""Atari's games as gymnasium envs whose frames are stacked last, as networks for images want them.

`register` makes `atari-pong-v5` and the other ids known to gymnasium: the game of `ALE/Pong-v5`
(sticky actions, a step is four frames) as ale_py's own vector env shows it, 84 x 84 pixels, grey,
four frames a state. ale_py has these four first, and a network that takes H x W x C would read
them as a picture of 4 x 84 pixels with 84 colours. ale_py is not imported before an env is made.

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

# Those of `ALE/<Game>-v5`.
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
# Of their states ale_py 0.12.1 loses a part (Arcade-Learning-Environment#732 is about it).
_LOSSY_STATES = {"miniature_golf", "pitfall2", "qbert", "tetris", "tic_tac_toe_3d"}
# What this module decides itself, or what would make ale_py's vector env an asynchronous one.
_NOT_OPTIONS = {"self", "game", "num_envs", "batch_size", "autoreset_mode"}


class AtariVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N copies of a game, stepped by ale_py's own threads; SAME_STEP autoreset."""

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
            num_envs: N.
            render_mode: "rgb_array": `render` gives the newest frames.
            **options: Those of `ale_py.vector_env.AtariVectorEnv`, among them `reward_clipping`
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
        """Takes the arguments of `AtariVectorEnv`, and raises what it raises."""
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
        """Returns a state, the episode's last one included, reward, terminated and truncated."""
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
                # As `ALE/<Game>-v5` has it.
                kwargs={"game": game, "repeat_action_probability": 0.25},
            )


def stacked_first(spec: gym.envs.registration.EnvSpec) -> str | None:
    """The id to take in the place of one of ale_py's own; None for any other env."""
    if not str(spec.vector_entry_point).startswith("ale_py."):
        return None
    return f"atari-{spec.kwargs['game']}-v5"


def get_ale_state(env: Any) -> dict[str, Any] | None:
    """The state of an `ale_py.AtariEnv` as plain data; None if ale_py can't save it exactly.

    ale_py's vector env, and so those above, gives no access to the states of its games. They could
    be played again from a seed, but to give each episode one would load its ROM anew.
    """
    if env._game in _LOSSY_STATES or env.continuous:
        return None
    ale = env.ale
    state = ale.cloneState(include_rng=True)
    # The action that sticky actions would repeat is not in it: what comes next shows which it is.
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
        ValueError: It is of another version of ale_py.
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
    """The states to come without an action, until the one before can't go on any more."""
    states = []
    for _ in range(_frames_to_act(ale)):
        ale.act(0)
        states.append(ale.cloneState(include_rng=True).serialize())
    return states


def _frames_to_act(ale: Any) -> int:
    """After how many frames an action has been taken; but for one time in 10^15."""
    sticky = ale.getFloat("repeat_action_probability")
    return math.ceil(math.log(1e-15, sticky)) if 0 < sticky < 1 else 1


def _stack_last(states: np.ndarray) -> np.ndarray:
    """`[N, stack, H, W]` to `[N, H, W, stack]`, and RGB's `[N, stack, H, W, 3]` to 3 x stack."""
    moved = np.moveaxis(states, 1, 3)
    return np.ascontiguousarray(moved).reshape(*moved.shape[:3], -1)


def _import_vector_env_class() -> Any:
    try:
        return importlib.import_module("ale_py.vector_env").AtariVectorEnv
    except ModuleNotFoundError as e:
        if e.name != "ale_py":
            raise
        raise ValueError("Atari is not installed: pip install ale_py") from e
