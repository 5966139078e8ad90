"""What the dry run says about a run's observations, and about settings that do not suit them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium as gym

if TYPE_CHECKING:
    from rllib_ppg.config import PPGConfig

# Fewer policy epochs than PPO has on vectors, and more than it has on images.
_FEW_EPOCHS, _MANY_EPOCHS = 2, 6


def parts(space: gym.Space) -> str | None:
    """The bytes of each part of an observation; None if it has no parts."""
    from rllib_ppg.envs.packed_observations import packing_of

    packing = packing_of(space)
    if packing is None:
        return None
    return ", ".join(f"{name} {size:,} B" for name, size in packing.sizes.items())


def memory(config: PPGConfig) -> str | None:
    """The bytes of a recurrent state, and how far gradients go back; None without a memory."""
    if not config.state_bytes:
        return None
    return (
        f"{config.state_bytes:,} B of recurrent states for each env; gradients go back through "
        f"{config.steps_per_segment} steps"
    )


def hint(config: PPGConfig, space: gym.Space) -> str | None:
    """Says so if settings for images meet vectors, or the reverse."""
    from rllib_ppg.envs.packed_observations import packing_of
    from rllib_ppg.envs.spaces import is_image

    packing = packing_of(space)
    has_images = is_image(space) or (packing is not None and bool(packing.images))
    L, T = config.steps_per_segment, config.rollout_fragment_length
    if not has_images and L == T > 1 and config.e_pi < _FEW_EPOCHS and not config.state_bytes:
        return (
            f"e_pi={config.e_pi} and whole rows in a minibatch suit images; on vectors, PPG learns "
            "better with 4 to 10 epochs of single transitions (e_pi, e_v, segment_length=1), as in "
            "the experiments cartpole and mujoco"
        )
    if has_images and L == 1 and config.e_pi >= _MANY_EPOCHS:
        return (
            f"e_pi={config.e_pi} epochs of single transitions suit vectors; the paper has e_pi=1 "
            "and whole rows for images, as in the experiments procgen_easy and procgen_small"
        )
    return None
