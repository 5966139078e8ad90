"""Random changes to images, which leave alone what a policy should see. Pure torch, no Ray.

Shapes: B images uint8 `[B, H, W, C]`, and numbers `u` from [0, 1), float32 `[B, 4]`, from which all
that is random about an image is made. An image of a state in an epoch is therefore the same on any
number of learners, and in a run that was resumed. Sizes in pixels are for 64 x 64 and scale with H.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.setting_values import format_value

# Numbers for each image.
NUM_RANDOM = 4

Augmentation = Callable[[Tensor, Tensor], Tensor]


def random_translate(images: Tensor, u: Tensor) -> Tensor:
    """Moves each image by up to 8 pixels in both directions; what is uncovered is black.

    Laskin et al. 2020, "Reinforcement Learning with Augmented Data" (arXiv 2004.14990).
    """
    return _moved(images, u, images.shape[1] // 8, "constant")


def random_crop(images: Tensor, u: Tensor) -> Tensor:
    """Repeats the edge for 12 pixels on each side, and cuts out a part of the old size.

    Raileanu et al. 2021, "Automatic Data Augmentation for Generalization in Deep Reinforcement
    Learning" (arXiv 2006.12862).
    """
    return _moved(images, u, 12 * images.shape[1] // 64, "replicate")


def cutout(images: Tensor, u: Tensor) -> Tensor:
    """Blackens a rectangle, 7 to 21 pixels high and wide (Raileanu et al. 2021)."""
    sides = [images.shape[1], images.shape[2]]
    inside = []
    for k, side in enumerate(sides):
        least, most = 7 * sides[0] // 64, 21 * sides[0] // 64
        size = least + (u[:, k] * (most - least + 1)).long()
        first = (u[:, 2 + k] * (side - size + 1)).long()
        at = torch.arange(side, device=images.device)
        inside.append((at >= first[:, None]) & (at < (first + size)[:, None]))
    box = inside[0][:, :, None] & inside[1][:, None, :]
    return images.masked_fill(box[..., None], 0)


def color_jitter(images: Tensor, u: Tensor) -> Tensor:
    """Changes brightness, contrast and saturation by factors from 0.6 to 1.4, and turns the hue.

    The hue turns by up to 0.354 of the circle in both directions, as in the code of Raileanu et al.
    2021. Grey frames have neither saturation nor hue.
    """
    brightness, contrast, saturation = (0.6 + 0.8 * u[:, :3]).T[..., None, None, None, None]
    # Frames that are stacked in the last axis: RGB ones, or grey ones without a saturation.
    rgb = images.shape[-1] % 3 == 0
    weights = torch.tensor([0.299, 0.587, 0.114] if rgb else [1.0], device=images.device)
    x = images.unflatten(-1, (-1, len(weights))).float()
    x = (x * brightness).clamp(0, 255)
    mean = (x * weights).sum(-1, keepdim=True).mean((1, 2), keepdim=True)
    x = (mean + contrast * (x - mean)).clamp(0, 255)
    grey = (x * weights).sum(-1, keepdim=True)
    x = (grey + saturation * (x - grey)).clamp(0, 255)
    if rgb:
        x = _with_turned_hue(x, (u[:, 3] - 0.5) * 255 / 360)
    return x.round().to(images.dtype).flatten(-2)


def _with_turned_hue(x: Tensor, turn: Tensor) -> Tensor:
    """RGB images `[B, ..., 3]` with the hue turned by `turn` `[B]` of the circle.

    From HSV, with the hue in sixths: channel n of 5, 3, 1 is V - C max(0, min(k, 4 - k, 1)), where
    k = (n + H) mod 6 and C = max - min.
    """
    r, g, b = x.unbind(-1)
    V, largest = x.max(-1)
    C = V - x.amin(-1)
    differences = torch.stack([g - b, b - r + 2 * C, r - g + 4 * C], -1)
    H = differences.gather(-1, largest[..., None])[..., 0] / C.clamp(min=1e-6)
    H = H + 6 * turn.view(-1, *[1] * (H.ndim - 1))
    n = torch.tensor([5.0, 3.0, 1.0], device=x.device)
    k = (n + H[..., None]) % 6
    return V[..., None] - C[..., None] * torch.minimum(k, 4 - k).clamp(0, 1)


def _moved(images: Tensor, u: Tensor, most: int, mode: str) -> Tensor:
    """Moves each image by up to `most` pixels up, down, left and right."""
    B, H, W, _ = images.shape
    nchw = images.permute(0, 3, 1, 2)
    if mode == "replicate":  # which torch does not do for uint8
        nchw = nchw.float()
    padded = F.pad(nchw, (most,) * 4, mode=mode).to(images.dtype).permute(0, 2, 3, 1)
    top, left = (u[:, :2] * (2 * most + 1)).long().T
    rows = top[:, None] + torch.arange(H, device=images.device)
    columns = left[:, None] + torch.arange(W, device=images.device)
    batch = torch.arange(B, device=images.device)
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


AUGMENTATIONS: dict[str, Augmentation] = {
    "random_translate": random_translate,
    "random_crop": random_crop,
    "cutout": cutout,
    "color_jitter": color_jitter,
}


def _of_a_copy(own: Augmentation, images: Tensor, u: Tensor) -> Tensor:
    """A user's function of images that it may write to: what is stored must not change."""
    out = own(images.clone(), u)
    if not isinstance(out, Tensor) or (out.shape, out.dtype) != (images.shape, images.dtype):
        got = f"{out.dtype} {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"augmentation returns {got} for {images.dtype} {list(images.shape)}")
    return out


def augmentation_of(setting: Any) -> Augmentation | None:
    """The function that a setting means: a name, a function, or None for none.

    Raises:
        ValueError: There is no such augmentation.
    """
    if setting is None:
        return None
    if callable(setting) and not isinstance(setting, type):
        return partial(_of_a_copy, setting)
    if not isinstance(setting, str) or setting not in AUGMENTATIONS:
        hint = did_you_mean(setting, AUGMENTATIONS) if isinstance(setting, str) else ""
        raise ValueError(
            f"augmentation is None, a function, or one of {', '.join(AUGMENTATIONS)}, not "
            f"{format_value(setting)}{hint}"
        )
    return AUGMENTATIONS[setting]
