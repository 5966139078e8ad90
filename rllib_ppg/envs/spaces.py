"""Spaces as networks and rollouts need them: flat observations, actions in one array."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import tree
from gymnasium import spaces
from ray.rllib.utils.spaces.space_utils import get_base_struct_from_space
from torch import Tensor

from rllib_ppg.envs.box_actions import BoxActions
from rllib_ppg.envs.packed_observations import Packing, is_packed, packed_space, packing_of

_MOST_CHOICES = 10_000  # of a Box of integers that is as well a Discrete one


def is_flat(space: gym.Space) -> bool:
    """Whether observations need no flattening: vectors and H x W x C images."""
    return isinstance(space, spaces.Box) and len(space.shape) in (1, 3)


def is_image(space: gym.Space) -> bool:
    """Whether observations are H x W x C images."""
    return len(space.shape or ()) == 3


def num_pixels(space: gym.Space) -> int:
    """Number of pixels in the images of an observation as networks get it; 0 if it has none."""
    if is_image(space):
        return math.prod(space.shape[:2])
    packing = packing_of(space)
    return sum(math.prod(image.shape[:2]) for image in packing.images.values()) if packing else 0


def flat_space(space: gym.Space) -> spaces.Box:
    """The space of the vectors that `flatten_observation` returns.

    Its `original_space`, RLlib's name for it, is `space`. A checkpoint's module keeps it, so that
    `load_policy` knows the env's observations.

    Raises:
        ValueError: The observations have no fixed size.
    """
    if is_packed(space):
        return packed_space(space)
    if not space.is_np_flattenable:
        raise ValueError(
            f"PPG flattens what is neither vector nor image, and observations of {space} have no "
            "fixed size"
        )
    flat = spaces.flatten_space(space)
    box = spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
    box.original_space = space
    return box


def flatten_observation(space: gym.Space, obs: Any) -> np.ndarray:
    """Flattens an observation to float32 `[d]` as gymnasium does, with Discrete as one-hot.

    If it has images or an action mask, it is packed instead (`packed_observations.py`).

    Raises:
        ValueError: A discrete part is out of range; gymnasium would set a wrong element.
    """
    if is_packed(space):
        return Packing(space).pack(obs, 1)[0]
    if not _in_range(space, obs):
        raise ValueError(f"{obs!r} is no observation of {space}")
    return np.asarray(spaces.flatten(space, obs), np.float32)


def _in_range(space: gym.Space, obs: Any) -> bool:
    """Whether all discrete parts are in range."""
    if isinstance(space, spaces.Discrete):
        return bool(0 <= obs - space.start < space.n)
    if isinstance(space, spaces.MultiDiscrete):
        counted = np.asarray(obs) - space.start
        return bool(((counted >= 0) & (counted < space.nvec)).all())
    if isinstance(space, spaces.Dict):
        return all(_in_range(part, obs[key]) for key, part in space.items())
    if isinstance(space, spaces.Tuple):
        return all(map(_in_range, space, obs))
    return True


def check_action_space(space: gym.Space) -> None:
    """Raises ValueError for an action space that PPG can't train on."""
    parts = tree.flatten(get_base_struct_from_space(space))
    for part in parts:
        discrete = isinstance(part, spaces.Discrete)
        multi_discrete = isinstance(part, spaces.MultiDiscrete) and len(part.shape) == 1
        vector = isinstance(part, spaces.Box) and part.dtype.kind == "f" and len(part.shape) == 1
        if not (discrete or multi_discrete or vector):
            same = _equivalent(part)
            raise ValueError(
                "PPG takes Discrete and MultiDiscrete actions, vectors of real numbers, and Tuples "
                "and Dicts of them, whose distributions have an exact KL, and not "
                f"{_one_line(part)}{f'; {same} says the same' if same else ''}"
            )
    if not parts or any(part.shape == (0,) for part in parts):
        raise ValueError(f"there is nothing to choose in actions of {_one_line(space)}")


def _equivalent(space: gym.Space) -> str | None:
    """A space that PPG takes and that has the same actions, as code."""
    if isinstance(space, spaces.MultiBinary):
        return f"MultiDiscrete({_list(np.full(space.shape, 2))})"
    if isinstance(space, spaces.MultiDiscrete):
        return f"MultiDiscrete({_list(space.nvec)}{_start(space.start)})"
    if not isinstance(space, spaces.Box) or 0 in space.shape:
        return None
    if space.dtype.kind == "f":
        if np.ptp(space.low) or np.ptp(space.high):
            return f"Box(low.ravel(), high.ravel(), dtype={space.dtype.name!r})"
        return f"Box({space.low.min()}, {space.high.max()}, ({space.low.size},))"
    counts = space.high.astype(object) - space.low.astype(object) + 1
    if np.max(counts) > _MOST_CHOICES:
        return None
    if space.shape == ():
        return f"Discrete({counts}{_start(space.low)})"
    return f"MultiDiscrete({_list(counts)}{_start(space.low)})"


def _list(numbers: np.ndarray) -> str:
    each = [int(n) for n in numbers.ravel()]
    return f"[{each[0]}] * {len(each)}" if len({*each}) == 1 and len(each) > 3 else str(each)


def _start(start: np.ndarray) -> str:
    return f", start={_list(start) if start.shape else int(start)}" if np.any(start) else ""


def _one_line(space: gym.Space) -> str:
    return " ".join(str(space).split())


class Actions:
    """Converts a space's actions to one array `[B, *shape]`, and back.

    Discrete, MultiDiscrete and Box actions are arrays already. The components of a Tuple or Dict
    are concatenated as float32, which is exact for the integers that occur.

    Args:
        space: Space of a single action (see `check_action_space`).

    Attributes:
        shape: Shape of an action in the array.
        dtype: Dtype of the array.
    """

    def __init__(self, space: gym.Space):
        self._struct = get_base_struct_from_space(space)
        self._parts = tree.flatten(self._struct)
        self._widths = [math.prod(part.shape) for part in self._parts]
        self._composite = isinstance(space, spaces.Tuple | spaces.Dict)
        self._as_drawn = not any(
            isinstance(part, spaces.Box) or np.any(part.start) or part.dtype != np.int64
            for part in self._parts
        )
        self._boxes = tree.map_structure(
            lambda part: BoxActions(part) if isinstance(part, spaces.Box) else None, self._struct
        )
        self.shape = (sum(self._widths),) if self._composite else space.shape
        real = self._composite or isinstance(space, spaces.Box)
        self.dtype = np.dtype(np.float32) if real else space.dtype  # as the policy samples them

    def pack(self, actions: Any) -> np.ndarray:
        """Packs a batch of actions, Tuples and Dicts of arrays `[B, ...]`, into one array."""
        if not self._composite:
            return actions
        columns = [np.reshape(a, (len(a), -1)) for a in tree.flatten(actions)]
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def unpack(self, packed: Tensor) -> Tensor | list[Tensor]:
        """Unpacks a batch for a distribution's `logp`, which takes a list of components."""
        return list(packed.split(self._widths, dim=1)) if self._composite else packed

    def for_env(self, actions: Any, *, normalized: bool, clip: bool) -> Any:
        """Converts the policy's actions, a batch or a single one, for the env.

        Discrete actions of the policy count from 0, those of the env from the space's `start`.

        Args:
            actions: Actions of the policy, arrays `[B, ...]`.
            normalized: Whether the policy acts in [-1, 1], to be scaled to the bounds of a Box and
                clipped to them (RLlib's `normalize_actions`; see `BoxActions`).
            clip: Whether to clip to the bounds otherwise (RLlib's `clip_actions`).
        """
        if self._as_drawn:  # most envs, and this is called in every step
            return actions

        def convert(a: np.ndarray, space: gym.Space, box: BoxActions | None) -> np.ndarray:
            if box is None:
                return (a + space.start).astype(space.dtype)
            return box.for_env(a, normalized=normalized, clip=clip)

        return tree.map_structure(convert, actions, self._struct, self._boxes)
