"""Observations with several parts as the bytes of one array.

Dicts and Tuples with an image or an action mask in them are packed: images keep their type, and
all other parts become one float32 vector, as gymnasium flattens them. An observation stays one row
of an array, so rollouts, replay blocks, compression and checkpoints know nothing of parts.

Shapes: B observations of `nbytes` bytes, a vector of d numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

VECTOR, MASK = "vector", "action_mask"
_ALIGNMENT = 8  # bytes, so that a part can be looked at as its own type


class ObservationError(ValueError):
    """An observation is none of its space.

    Attributes:
        index: Which one of the batch; None if it can't be told.
    """

    def __init__(self, what: str, index: int | None = None):
        super().__init__(what)
        self.index = index


@dataclass(frozen=True)
class Part:
    """Where a part lies in a packed observation.

    Attributes:
        space: Its space; of the vector: of all that is in it.
        shape: Its shape.
        dtype: Its type.
        start: Its first byte.
    """

    space: gym.Space
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def stop(self) -> int:
        """The byte after its last one."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


class Packing:
    """How observations of a space are packed.

    Args:
        space: A Dict or Tuple; see `is_packed`.

    Attributes:
        images: The image parts by name: their keys, joined by underscores.
        vector: The vector of all other parts; None if there are none.
        mask: The action mask; None if there is none.
        nbytes: Bytes of an observation.
    """

    def __init__(self, space: gym.Space):
        self.space = space
        mask = _mask_space(space)
        leaves = {
            path: leaf for path, leaf in part_spaces(space) if mask is None or path != (MASK,)
        }
        images = {path: leaf for path, leaf in leaves.items() if _is_image(leaf)}
        # Larger numbers first, so that each part begins at a multiple of its own.
        self._image_paths = sorted(images, key=lambda path: -images[path].dtype.itemsize)
        self._vector_paths = [path for path in leaves if path not in images]
        start = 0

        def placed(of: gym.Space, shape: tuple[int, ...], dtype: Any) -> Part:
            nonlocal start
            part = Part(of, shape, np.dtype(dtype), start)
            start = -(-part.stop // _ALIGNMENT) * _ALIGNMENT
            return part

        self.images = {
            _name(path): placed(images[path], images[path].shape, images[path].dtype)
            for path in self._image_paths
        }
        taken = [n for n in self.images if n in (VECTOR, MASK, "") or hasattr(nn.ModuleDict(), n)]
        if taken or len(self.images) < len(images):
            raise ValueError(
                f"the image parts of {space} need other keys: nested ones are joined by "
                f"underscores, and {VECTOR!r}, {MASK!r} and names of torch's ModuleDict are taken"
            )
        d = sum(spaces.flatdim(leaves[path]) for path in self._vector_paths)
        self.vector = placed(_vector_space(d), (d,), np.float32) if d else None
        self.mask = None if mask is None else placed(mask, (spaces.flatdim(mask),), np.uint8)
        self.nbytes = start

    def pack(self, batch: Any, B: int) -> np.ndarray:
        """Packs observations, `[B, nbytes]`.

        Args:
            batch: Arrays `[B, ...]` in the structure of the space; with B = 1 perhaps without B.
            B: Number of observations.

        Raises:
            ObservationError: A number is NaN, infinite or out of range, or an image has another
                shape or type.
        """
        packed = np.zeros((B, self.nbytes), np.uint8)
        for path, part in zip(self._image_paths, self.images.values(), strict=True):
            image = np.asarray(_at(batch, path))
            shapes = [(B, *part.shape)] + [part.shape] * (B == 1)
            if image.shape not in shapes or not np.can_cast(image.dtype, part.dtype, "same_kind"):
                raise ObservationError(
                    f"an image of an observation is {image.dtype} {image.shape}, and its space is "
                    f"{part.dtype} {shapes[0]}"
                )
            if image.dtype.kind == "f":
                what = "an image of an observation has NaN or infinite numbers"
                _check(np.isfinite(image).reshape(B, -1), what)
            self._view(packed, part)[...] = image
        if self.vector is not None:
            columns = [
                _flat(_at(self.space, path), _at(batch, path), B) for path in self._vector_paths
            ]
            vectors = np.concatenate(columns, axis=1, dtype=np.float32)
            _check(np.isfinite(vectors), "an observation has NaN or infinite numbers")
            self._view(packed, self.vector)[...] = vectors
        if self.mask is not None:
            mask = np.reshape(_at(batch, (MASK,)), (B, -1))
            _check(np.isin(mask, (0, 1)), "an action_mask has other numbers than 0 and 1")
            self._view(packed, self.mask)[...] = mask
        return packed

    @property
    def names(self) -> list[str]:
        """The names of the parts, as `unpack` returns them."""
        return [*self._parts()]

    @property
    def paths(self) -> dict[str, list[tuple[Any, ...]]]:
        """Where in the env's observation each part comes from, by the part's name."""
        images = zip(self.images, ([path] for path in self._image_paths), strict=True)
        others = {VECTOR: self._vector_paths, MASK: [(MASK,)]}
        return {
            name: paths for name, paths in {**dict(images), **others}.items() if name in self.names
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each part."""
        return {name: part.stop - part.start for name, part in self._parts().items()}

    def _parts(self) -> dict[str, Part]:
        others = {VECTOR: self.vector, MASK: self.mask}
        return {**self.images, **{name: part for name, part in others.items() if part is not None}}

    def unpack(self, obs: Tensor) -> dict[str, Tensor]:
        """The parts of packed observations `[B, nbytes]`, `[B, ...]` each, without a copy."""
        if not len(obs):  # numpy's strides of nothing are 0, and torch wants 1
            obs = obs.new_empty(obs.shape)
        return {
            name: obs[:, part.start : part.stop]
            .view(torch.from_numpy(np.empty(0, part.dtype)).dtype)
            .unflatten(1, part.shape)
            for name, part in self._parts().items()
        }

    def check_mask(self, action_space: gym.Space) -> None:
        """Raises ValueError if the mask does not fit the actions; nothing if there is none."""
        if self.mask is None:
            return
        if isinstance(action_space, spaces.Discrete):
            n = int(action_space.n)
        elif isinstance(action_space, spaces.MultiDiscrete):
            n = int(np.sum(action_space.nvec))
        else:
            raise ValueError(
                "an action_mask is for Discrete and MultiDiscrete actions, and not for "
                f"{action_space}"
            )
        space = self.mask.space
        binary = isinstance(space, spaces.MultiBinary) or (
            isinstance(space, spaces.Box) and (space.low == 0).all() and (space.high == 1).all()
        )
        if not binary or self.mask.shape != (n,):
            raise ValueError(
                f"the action_mask of {action_space} is MultiBinary({n}) or Box(0, 1, ({n},)), and "
                f"not {space}"
            )

    def vectors(self, obs: np.ndarray) -> np.ndarray:
        """The vectors of packed observations `[B, nbytes]`, `[B, d]`."""
        assert self.vector is not None
        return self._view(obs, self.vector)

    def masks(self, obs: np.ndarray) -> np.ndarray:
        """The action masks of packed observations `[B, nbytes]`, `[B, n]` bool."""
        assert self.mask is not None
        return self._view(obs, self.mask).astype(bool)

    def picture(self, obs: np.ndarray) -> np.ndarray | None:
        """The first part of packed observations that can be shown, `[B, H, W, 3]` uint8."""
        for part in self.images.values():
            if part.dtype == np.uint8 and part.shape[2] == 3:
                return self._view(obs, part)
        return None

    @staticmethod
    def _view(packed: np.ndarray, part: Part) -> np.ndarray:
        bytes_ = packed[:, part.start : part.stop]
        return bytes_.view(part.dtype).reshape(len(packed), *part.shape)


def is_packed(space: gym.Space) -> bool:
    """Whether observations of a space are packed: it has parts, and an image or a mask is one."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return False
    if not space.is_np_flattenable:  # parts of no fixed size, which nothing can be done with
        return False
    return any(_is_image(leaf) for _, leaf in part_spaces(space)) or _mask_space(space) is not None


def packed_space(space: gym.Space) -> spaces.Box:
    """The space of packed observations. Its `original_space`, RLlib's name for it, is `space`."""
    box = spaces.Box(0, 255, (Packing(space).nbytes,), np.uint8)
    box.original_space = space
    return box


def packing_of(space: gym.Space) -> Packing | None:
    """How the observations of a space that networks get are packed; None if they are not."""
    original = getattr(space, "original_space", None)
    return Packing(original) if original is not None and is_packed(original) else None


def forbids_all(masks: np.ndarray, action_space: gym.Space) -> np.ndarray:
    """Whether masks `[B, n]` forbid all actions, or all of a part of MultiDiscrete ones, `[B]`."""
    is_discrete = isinstance(action_space, spaces.Discrete)
    sizes = [action_space.n] if is_discrete else action_space.nvec
    of_parts = np.split(masks, np.cumsum(sizes)[:-1], axis=1)
    return ~np.stack([mask.any(1) for mask in of_parts]).all(0)


def with_masks(space: gym.Space, obs: Any, masks: Any) -> dict[str, Any]:
    """Observations of a space with these action masks.

    Args:
        space: The env's observation space.
        obs: Observations of it, or what lies beside the mask in them.
        masks: Action masks.

    Raises:
        ValueError: Observations of this space have no mask.
    """
    if _mask_space(space) is None:
        raise ValueError(f"action_masks are for a policy whose observations have them, not {space}")
    (key,) = space.keys() - {MASK}
    is_whole = isinstance(obs, Mapping) and obs.keys() == space.keys()
    masks = np.asarray(masks)
    if masks.dtype.kind == "f" and np.isin(masks, (0, 1)).all():  # as torch's may come
        masks = masks.astype(bool)
    return {key: obs[key] if is_whole else obs, MASK: masks}


def _check(is_right: np.ndarray, what: str) -> None:
    """Raises ObservationError for the first of the rows `[B, d]` that is not right."""
    if not is_right.all():
        raise ObservationError(what, int(np.flatnonzero(~is_right.all(1))[0]))


def _is_image(space: gym.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def _mask_space(space: gym.Space) -> gym.Space | None:
    """The action mask's space in RLlib's and PettingZoo's convention; None if there is no mask.

    Raises:
        ValueError: There is one, and the space is not as the convention says.
    """
    if isinstance(space, spaces.Dict) and space.keys() in (
        {MASK, "observations"},
        {MASK, "observation"},
    ):
        return space[MASK]
    if any(MASK in path for path, _ in part_spaces(space)):
        raise ValueError(
            f"an observation with {MASK!r} is a Dict of it and 'observations', and nothing else, "
            f"and not {space}"
        )
    return None


def part_spaces(space: gym.Space, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple, gym.Space]]:
    """The spaces that a Dict or Tuple is made of, however deep, with the way to each of them."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from part_spaces(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space.spaces):
            yield from part_spaces(part, (*path, i))
    else:
        yield path, space


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _vector_space(d: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (d,), np.float32)


def _name(path: tuple[Any, ...]) -> str:
    return "_".join(map(str, path)).replace(".", "_")


def _flat(space: gym.Space, batch: Any, B: int) -> np.ndarray:
    """A batch of a part that is no image as vectors `[B, d]`, flattened as gymnasium does."""
    batch = np.reshape(np.asarray(batch), (B, *(space.shape or ())))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        sizes = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec).ravel()
        counted = (batch - space.start).reshape(B, -1)
        what = f"an observation has a number that is not of {space}"
        _check((counted >= 0) & (counted < sizes), what)
        one_hot = np.zeros((B, int(sizes.sum())), np.float32)
        first = np.cumsum([0, *sizes[:-1]])
        one_hot[np.arange(B)[:, None], first + counted] = 1.0
        return one_hot
    if not isinstance(space, spaces.Box | spaces.MultiBinary):
        return np.stack([spaces.flatten(space, x) for x in batch]).astype(np.float32)
    return batch.reshape(B, -1).astype(np.float32)
