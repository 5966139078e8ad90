"""Procgen's 16 games as gymnasium envs, and their constants.

`register` makes `procgen-coinrun-v0` and the other ids known to gymnasium. Procgen takes a second
to load, so it is imported when an env is made.

The engine resets in the same step and drops the last frame: the frame that comes with `terminated`
is the first one of the next episode. The engine does not distinguish a time limit from a death:
both are `terminated`, as in OpenAI's code, and `truncated` is always False.

Shapes: N envs; a frame is uint8 [64, 64, 3].
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

# Lowest and highest returns for normalisation: Cobbe et al. 2020, "Leveraging Procedural
# Generation to Benchmark Reinforcement Learning", appendix "Normalization Constants".
RETURN_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "bigfish": {"easy": (1, 40), "hard": (0, 40)},
    "bossfight": {"easy": (0.5, 13), "hard": (0.5, 13)},
    "caveflyer": {"easy": (3.5, 12), "hard": (2, 13.4)},
    "chaser": {"easy": (0.5, 13), "hard": (0.5, 14.2)},
    "climber": {"easy": (2, 12.6), "hard": (1, 12.6)},
    "coinrun": {"easy": (5, 10), "hard": (5, 10)},
    "dodgeball": {"easy": (1.5, 19), "hard": (1.5, 19)},
    "fruitbot": {"easy": (-1.5, 32.4), "hard": (-0.5, 27.2)},
    "heist": {"easy": (3.5, 10), "hard": (2, 10)},
    "jumper": {"easy": (3, 10), "hard": (1, 10)},
    "leaper": {"easy": (3, 10), "hard": (1.5, 10)},
    "maze": {"easy": (5, 10), "hard": (4, 10)},
    "miner": {"easy": (1.5, 13), "hard": (1.5, 20)},
    "ninja": {"easy": (3.5, 10), "hard": (2, 10)},
    "plunder": {"easy": (4.5, 30), "hard": (3, 30)},
    "starpilot": {"easy": (2.5, 64), "hard": (1.5, 35)},
}
GAMES = tuple(RETURN_RANGES)
# The games of each mode. Asked for another game, the engine would abort the whole process.
MODES: dict[str, tuple[str, ...]] = {
    "easy": GAMES,
    "hard": GAMES,
    "extreme": ("chaser", "dodgeball", "leaper", "starpilot"),
    "memory": ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner"),
    "exploration": (
        "caveflyer",
        "climber",
        "coinrun",
        "heist",
        "jumper",
        "leaper",
        "maze",
        "ninja",
    ),
}
# Every option with its default; a None is filled in when the engine is built.
OPTIONS: dict[str, bool | int | str | None] = {
    "distribution_mode": "hard",
    "num_levels": 0,
    "start_level": 0,
    "center_agent": True,
    "use_backgrounds": True,
    "use_monochrome_assets": False,
    "restrict_themes": False,
    "use_generated_assets": False,
    "paint_vel_info": False,
    "use_sequential_levels": False,
    "debug_mode": 0,
    "num_threads": None,
    "rand_seed": None,
}
NUM_ACTIONS = 15
_FORCE_RESET = -1  # the engine's action for it
_INT_END = 2**31  # the engine's integers have 32 bits

Return = TypeVar("Return", float, np.ndarray)


def normalized_return(game: str, mode: str, episode_return: Return) -> Return:
    """Scales returns so that 0 is a trivial policy and 1 about the best possible.

    Args:
        game: One of `GAMES`.
        mode: "easy" or "hard"; no ranges are published for the other modes.
        episode_return: Undiscounted return of an episode, or an array of them, of any shape.

    Returns:
        (return - min) / (max - min), not clipped, in the shape of `episode_return`.

    Raises:
        ValueError: The game is unknown or the mode has no ranges.
    """
    _check_name("Procgen game", game, GAMES)
    _check_name("mode with published return ranges", mode, RETURN_RANGES[game])
    low, high = RETURN_RANGES[game][mode]
    return (episode_return - low) / (high - low)


class ProcgenVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N copies of a game, stepped by Procgen's threads, with SAME_STEP autoreset.

    Returned arrays are never overwritten: gym3 returns copies of the engine's buffer (15 to 40 us
    for 64 envs, whose step takes 2 ms).
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }
    _engine: Any = None

    def __init__(
        self, game: str, num_envs: int = 1, *, render_mode: str | None = None, **options: Any
    ) -> None:
        """Checks the options; the first `reset` or `set_state` builds the engine.

        Args:
            game: One of `GAMES`.
            num_envs: Number of copies N.
            render_mode: "rgb_array" for `render`. Each step then draws large pictures, which takes
                2 ms for each env.
            **options: Procgen's options (see `OPTIONS`). `num_levels=0` means all levels,
                `num_levels=200` the 200 levels from `start_level` on. `rand_seed` is the seed of
                the first `reset` if that has none. `num_threads` does not change the frames.

        Raises:
            ValueError: A game, mode or option is unknown, a value is out of range, the game lacks
                the mode, or Procgen is not installed.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, not {num_envs}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")
        self._game = game
        self._options = _checked_options(game, options)
        self._engine_class = _import_engine_class()
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.single_action_space = gym.spaces.Discrete(NUM_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new episode in every env.

        Args:
            seed: Seed that, with the actions, determines all later levels and frames. The engine
                takes a seed only when it is built, so this builds it again (10 ms for 64 envs).
            options: Not used.

        Returns:
            The first frames, uint8 [N, 64, 64, 3], and an empty dict.
        """
        super().reset(seed=seed)
        if seed is not None or self._engine is None:
            self._build_engine(self._options["rand_seed"] if seed is None else seed)
        else:
            self._engine.act(np.full(self.num_envs, _FORCE_RESET))
        return self._engine.observe()[1]["rgb"], {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps every env once.

        Args:
            actions: Integers from 0 to 14, [N].

        Returns:
            Frames, uint8 [N, 64, 64, 3], at the end of an episode the next episode's first one;
            rewards, float32 [N]; terminated, bool [N]; truncated, bool [N], all False; an empty
            dict.

        Raises:
            ValueError: The actions have another shape or are out of range.
        """
        self._check_live("step")
        actions = np.asarray(actions)
        # The engine takes -1 as a forced reset, and any other number as an action.
        if actions.shape != (self.num_envs,) or actions.min() < 0 or actions.max() >= NUM_ACTIONS:
            raise ValueError(f"step takes {self.num_envs} actions from 0 to 14, not {actions}")
        self._engine.act(actions)
        rewards, frames, first = self._engine.observe()
        return frames["rgb"], rewards, first, np.zeros(self.num_envs, bool), {}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns a uint8 [512, 512, 3] picture of each env, or None without a render mode."""
        self._check_live("render")
        if self.render_mode is None:
            return None
        return tuple(info["rgb"] for info in self._engine.get_info())

    def get_state(self) -> list[bytes]:
        """Saves every env exactly, including its random numbers: N states of about 37 kB.

        Raises:
            ValueError: Procgen cannot save envs with `use_generated_assets`.
        """
        self._check_live("get_state")
        if self._options["use_generated_assets"]:  # the engine would abort the process
            raise ValueError("Procgen cannot save or restore envs with use_generated_assets=True")
        return self._engine.callmethod("get_state")

    def set_state(self, states: Sequence[bytes]) -> np.ndarray:
        """Restores what `get_state` saved; no `reset` is needed before.

        Args:
            states: N states of the same game and options; seeds and threads may differ.

        Returns:
            The last frames of the saved envs, uint8 [N, 64, 64, 3].

        Raises:
            ValueError: There are not N states, or they have another game or other options.
        """
        if len(states) != self.num_envs:
            raise ValueError(f"set_state takes {self.num_envs} states, not {len(states)}")
        if self._engine is None:
            self._build_engine(0)
        # A state begins with a version, the game (length first) and 15 integers: options and
        # levels. With another version or game the engine aborts the process, and it silently
        # takes over other options.
        size = struct.calcsize("<ii") + len(self._game) + struct.calcsize("<15i")
        header = self.get_state()[0][:size]
        if any(state[:size] != header for state in states):
            raise ValueError(f"the states are not of {self._game} with the options of this env")
        self._engine.callmethod("set_state", list(states))
        return self._engine.observe()[1]["rgb"]

    def get_env_state(self) -> list[bytes] | None:
        """The state for `env_state.py`; None with `use_generated_assets`, which can't be saved."""
        return None if self._options["use_generated_assets"] else self.get_state()

    def set_env_state(self, state: list[bytes]) -> None:
        """Restores what `get_env_state` returned; errors are those of `set_state`."""
        self.set_state(state)

    def close_extras(self, **kwargs: Any) -> None:
        """Frees the engine and ends its threads."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _build_engine(self, seed: int | None) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this Procgen env is closed")
        self.close_extras()
        options = dict(self._options)
        if options["distribution_mode"] == "exploration":  # Procgen has one level for it
            del options["num_levels"], options["start_level"]
        if options["num_threads"] is None:
            options["num_threads"] = _default_num_threads(self.num_envs)
        # Without a seed, Procgen would initialise MPI if mpi4py is installed.
        seed = int(self.np_random.integers(_INT_END)) if seed is None else seed % _INT_END
        options.update(rand_seed=seed, render_mode=self.render_mode)
        self._engine = self._engine_class(num=self.num_envs, env_name=self._game, **options)

    def _check_live(self, method: str) -> None:
        if self._engine is None:
            raise gym.error.ResetNeeded(f"call reset before {method}")


class ProcgenEnv(gym.Env[np.ndarray, np.int64]):
    """One copy of a game, for `gymnasium.make`; `ProcgenVectorEnv` is faster for many.

    The frame that comes with `terminated` is the first one of the next episode. The following
    `reset` returns the same frame.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, game: str, *, render_mode: str | None = None, **options: Any) -> None:
        """Makes the game; arguments and errors are those of `ProcgenVectorEnv`."""
        self._envs = ProcgenVectorEnv(game, render_mode=render_mode, **options)
        self._next_episode: np.ndarray | None = None  # its first frame, between two episodes
        self.render_mode = render_mode
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new episode, or returns the first frame of the one that the last step began.

        Args:
            seed: As in `ProcgenVectorEnv.reset`; with a seed the episode is always new.
            options: Not used.

        Returns:
            The first frame, uint8 [64, 64, 3], and an empty dict.
        """
        super().reset(seed=seed)
        frame, self._next_episode = self._next_episode, None
        if frame is None or seed is not None:
            frame = self._envs.reset(seed=seed)[0][0]
        return frame, {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Returns a frame (uint8 [64, 64, 3]), reward, terminated, False and an empty dict.

        Raises:
            ValueError: The action is not one from 0 to 14.
        """
        frames, rewards, terminated, _, _ = self._envs.step(np.array([action]))
        self._next_episode = frames[0].copy() if terminated[0] else None
        return frames[0], float(rewards[0]), bool(terminated[0]), False, {}

    def get_env_state(self) -> dict[str, Any] | None:
        """The state of the game, as from `ProcgenVectorEnv.get_env_state`."""
        game = self._envs.get_env_state()
        return None if game is None else {"game": game, "next_episode": self._next_episode}

    def set_env_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_env_state` returned."""
        self._envs.set_env_state(state["game"])
        self._next_episode = state["next_episode"]

    def render(self) -> np.ndarray | None:
        """Returns a uint8 [512, 512, 3] picture, or None without a render mode."""
        pictures = self._envs.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        """Frees the engine."""
        self._envs.close()


def register() -> None:
    """Makes `procgen-<game>-v0` known to gymnasium, for all 16 games; repeating it is harmless.

    Options are keyword arguments: `gymnasium.make("procgen-maze-v0", distribution_mode="easy")`.
    """
    for game in GAMES:
        if f"procgen-{game}-v0" not in gym.registry:
            gym.register(
                f"procgen-{game}-v0",
                entry_point="rllib_ppg.envs.procgen:ProcgenEnv",
                vector_entry_point="rllib_ppg.envs.procgen:ProcgenVectorEnv",
                kwargs={"game": game},
            )


def _default_num_threads(num_envs: int) -> int:
    # Coinrun, thousand steps/s on 2 cores by number of threads (0: the caller's thread steps):
    #    1 env    0: 37,         2: 12      waking threads costs more than it gains
    #    8 envs   0: 24,         2: 20
    #   64 envs   0: 22, 1: 19,  2: 39,  4: 40
    #   two processes with 64 envs each, sharing the 2 cores, together  0: 44, 1: 35, 2: 38, 4: 36
    # So many env runners on one machine lose little. 4 is Procgen's default.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if num_envs < 16 or cpus < 2 else min(cpus, 4)


def _import_engine_class() -> Any:
    with contextlib.suppress(ImportError):  # silences old gym's deprecation notice
        importlib.import_module("gym_notices.notices").notices.clear()
    try:
        return importlib.import_module("procgen").ProcgenGym3Env
    except ModuleNotFoundError as e:
        if e.name != "procgen":
            raise
        raise ValueError(
            "Procgen is not installed: pip install 'procgen' on Python 3.10, "
            "'procgen-mirror' on 3.11 and 3.12"
        ) from e


def _checked_options(game: str, given: dict[str, Any]) -> dict[str, Any]:
    """All options, with defaults, in the types that the engine takes."""
    _check_name("Procgen game", game, GAMES)
    options: dict[str, Any] = dict(OPTIONS)
    for name, value in given.items():
        _check_name("Procgen option", name, OPTIONS)
        default = OPTIONS[name]
        if isinstance(default, str):
            _check_name("Procgen mode", value, MODES)
        elif isinstance(default, bool):
            if not isinstance(value, bool | np.bool_):
                raise ValueError(f"{name} must be True or False, not {value!r}")
            value = bool(value)
        elif value is not None or default is not None:
            is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not is_int or not 0 <= value < _INT_END:
                raise ValueError(f"{name} must be an integer from 0 to 2**31 - 1, not {value!r}")
            value = int(value)
        options[name] = value

    mode, start, num = (options[k] for k in ("distribution_mode", "start_level", "num_levels"))
    if game not in MODES[mode]:
        raise ValueError(f"{game} has no {mode} mode; these games have: {', '.join(MODES[mode])}")
    if mode == "exploration" and (start or num):
        raise ValueError("exploration mode has one fixed level: leave out num_levels, start_level")
    if start and not num:
        raise ValueError(f"start_level={start} has no effect with num_levels=0: all levels")
    if start + num >= _INT_END:
        raise ValueError(f"start_level + num_levels must be below 2**31, not {start + num}")
    return options


def _check_name(kind: str, name: Any, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
        raise ValueError(f"{name!r} is not a {kind}; did you mean {near!r}?")
