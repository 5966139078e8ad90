"""Observations as a user has them, single or in a batch, brought into the form that networks take.

Shapes: B observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate

from rllib_ppg.envs.packed_observations import Packing, is_packed
from rllib_ppg.envs.spaces import flatten_observation, is_flat


def as_batch(space: gym.Space, obs: Any) -> tuple[np.ndarray, bool]:
    """Brings observations of an env into the form that its policy was trained on.

    Args:
        space: The env's own observation space.
        obs: An observation, or a batch of them: arrays `[B, ...]`, in Dicts and Tuples if the
            space is one, as a vector env returns them.

    Returns:
        The observations `[B, ...]`, flattened if training flattens them; and whether `obs` was a
        single one.

    Raises:
        ValueError: These are not observations of this space.
    """
    sizes: dict[int | None, str] = {}
    obs = _arrays(space, obs, "the observation", sizes)
    if len(sizes) > 1:
        parts = " and ".join(
            f"{name} is {'a single one' if n is None else f'a batch of {n}'}"
            for n, name in sizes.items()
        )
        raise ValueError(f"{parts}: all parts of an observation need the same batch size")
    [B] = sizes
    if B == 0:
        raise ValueError("the batch has no observations")
    if is_flat(space):
        return (obs[None] if B is None else obs), B is None
    if is_packed(space):
        return Packing(space).pack(obs, B or 1), B is None
    each = [obs] if B is None else iterate(batch_space(space, B), obs)
    return np.stack([flatten_observation(space, one) for one in each]), B is None


def _arrays(space: gym.Space, obs: Any, name: str, sizes: dict[int | None, str]) -> Any:
    """Checks an observation and makes its parts arrays of their space's dtype.

    Args:
        space: The space of this part of the observation.
        obs: The part.
        name: What error sentences call it.
        sizes: Filled with the batch sizes that occur (None: single), each with the part's name.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or obs.keys() != space.keys():
            found = list(obs) if isinstance(obs, Mapping) else type(obs).__name__
            raise ValueError(f"{name} must be a dict with the keys {list(space)}, not {found}")
        return {key: _arrays(of, obs[key], f"{name}[{key!r}]", sizes) for key, of in space.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space):
            found = f"{len(obs)}" if isinstance(obs, tuple | list) else type(obs).__name__
            raise ValueError(f"{name} must be a tuple of {len(space)} parts, not {found}")
        return tuple(
            _arrays(of, obs[i], f"{name}[{i}]", sizes) for i, of in enumerate(space.spaces)
        )
    if space.shape is None:  # a space that has no arrays, such as OneOf, and so no batches
        sizes.setdefault(None, name)
        return obs
    try:
        x = np.asarray(obs)
    except ValueError:  # lists of different lengths
        x = np.empty((), object)
    if not np.can_cast(x.dtype, space.dtype, "same_kind"):
        raise ValueError(f"{name} has dtype {x.dtype}, and the policy expects {space.dtype}")
    if x.shape != space.shape and x.shape[1:] != space.shape:
        batch = ", ".join(["B", *map(str, space.shape)])
        raise ValueError(
            f"{name} has shape {x.shape}, and the policy expects {space.shape}, or ({batch}) for a "
            "batch of B"
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError(f"{name} has NaN or infinite numbers")
    sizes.setdefault(None if x.shape == space.shape else len(x), name)
    return np.ascontiguousarray(x, space.dtype) if space.shape else x.astype(space.dtype)
