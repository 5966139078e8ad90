"""Images of any type, scaled to [0, 1] by the bounds of their space."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor


def image_bounds(space: gym.spaces.Box) -> tuple[float, float]:
    """The smallest and the largest value of the images of a space.

    Raises:
        ValueError: They are not finite, or equal.
    """
    low, high = float(np.min(space.low)), float(np.max(space.high))
    bounded = bool((space.bounded_below & space.bounded_above).all())
    if not (bounded and np.isfinite([low, high]).all() and low < high):
        raise ValueError(
            f"images are scaled to [0, 1] by the bounds of their space, which are {low:g} and "
            f"{high:g}: give the observation space the bounds of its pixels"
        )
    return low, high


def check_image_space(space: gym.spaces.Box) -> None:
    """Checks that networks can be trained on images of a space.

    Raises:
        ValueError: The space has no finite bounds, or looks as if its channels came first.
    """
    image_bounds(space)
    first, *rest = space.shape
    if first <= 4 and min(rest) >= 16:
        moved = (*rest, first)
        raise ValueError(
            f"observations of shape {space.shape} seem to have their channels first, and networks "
            f"for images take H x W x C: move that axis to the end in a wrapper, to {moved}"
        )


def scaled(images: Tensor, bounds: tuple[float, float], dtype: torch.dtype) -> Tensor:
    """Images with values in [0, 1], of a float type.

    Args:
        images: Of any type and shape.
        bounds: What `image_bounds` returned for their space.
        dtype: Type of the result.
    """
    low, high = bounds
    x = images.to(dtype)
    if low:
        x = x - low
    return x if high - low == 1.0 else x / (high - low)
