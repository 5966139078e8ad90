"""Pictures for videos, `[H, W, 3]` uint8, of what envs render or show."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_rgb(rendered: Any) -> np.ndarray:
    """A picture that an env rendered: grey ones get three channels, and RGBA loses its alpha.

    Raises:
        ValueError: It can't be shown.
    """
    picture = np.asarray(rendered)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.ndim != 3 or picture.shape[-1] not in (1, 3, 4) or not picture.size:
        raise _not_a_picture(rendered)
    if picture.dtype.kind not in "iu" or picture.min() < 0 or picture.max() > 255:
        raise _not_a_picture(rendered)
    picture = picture[..., :3].astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def latest_frame(observation: np.ndarray) -> np.ndarray:
    """The picture in an image observation: of grey frames, stacked first or last, the last one."""
    if observation.shape[-1] == 3:
        return observation
    is_first = observation.shape[0] <= observation.shape[-1]
    return observation[-1] if is_first else observation[..., -1]


def _not_a_picture(rendered: Any) -> ValueError:
    picture = np.asarray(rendered)
    return ValueError(
        "render() must return a picture [height, width, 3] of whole numbers from 0 to 255 (uint8), "
        f"not {list(picture.shape)} of {picture.dtype}{_range(picture)}"
    )


def _range(picture: np.ndarray) -> str:
    if not picture.size or picture.dtype.kind not in "iuf":
        return ""
    return f" from {picture.min():g} to {picture.max():g}"
