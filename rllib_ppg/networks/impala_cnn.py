"""The paper's encoder for images: the IMPALA CNN (Espeholt et al. 2018), with normalised weights.

Shapes: B images of H x W x C, as the env returns them (NHWC). `permute` turns such a batch into
torch's channels-last format without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ENCODER_OUT, Encoder
from ray.rllib.core.models.configs import ModelConfig
from ray.rllib.core.models.torch.base import TorchModel
from ray.rllib.utils.annotations import override
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_ppg.networks.image_values import scaled

CHANNELS = (16, 32, 32)
DENSE = 256
BYTES = (0.0, 255.0)  # bounds of uint8 images
_BLOCKS_PER_STACK = 2


def norm_init(layer: nn.Linear | nn.Conv2d, scale: float) -> None:
    """Rescales each output unit's weights to the L2 norm `scale` and zeroes the biases."""
    with torch.no_grad():
        norm = layer.weight.flatten(1).norm(dim=1)
        layer.weight.mul_((scale / norm).view(-1, *[1] * (layer.weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias.zero_()


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        norm_init(self.conv0, scale)
        norm_init(self.conv1, scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1(F.relu(self.conv0(F.relu(x))))


class ImpalaCNN(nn.Module):
    """`[B, H, W, C]` images to `[B, dense]` features.

    A stack has a 3x3 convolution, a 3x3 max-pool of stride 2 and two residual blocks. The stacks
    are followed by relu, a dense layer and relu.

    Args:
        input_dims: (H, W, C).
        channels: Channels of each stack; (16, 32, 32) in the paper.
        dense: Number of features; 256 in the paper.
        bounds: Smallest and largest value of an image, which become 0 and 1.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        channels: Sequence[int] = CHANNELS,
        dense: int = DENSE,
        bounds: tuple[float, float] = BYTES,
    ):
        super().__init__()
        self.bounds = bounds
        h, w, c = input_dims
        # Each convolution contributes an equal share of the variance:
        # sqrt(1/sqrt(stacks)/sqrt(blocks)), which is .639 for three stacks of two blocks.
        scale = math.sqrt(1.0 / math.sqrt(len(channels)) / math.sqrt(_BLOCKS_PER_STACK))
        stacks = []
        for out in channels:
            first = nn.Conv2d(c, out, 3, padding=1)
            norm_init(first, 1.0)
            blocks = [_Residual(out, scale) for _ in range(_BLOCKS_PER_STACK)]
            stacks.append(nn.Sequential(first, nn.MaxPool2d(3, stride=2, padding=1), *blocks))
            h, w, c = (h + 1) // 2, (w + 1) // 2, out
        self.stacks = nn.Sequential(*stacks)
        self.stacks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dense = nn.Linear(h * w * c, dense)
        norm_init(self.dense, 1.4)

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, dense]` of images `[B, H, W, C]`."""
        x = scaled(images.permute(0, 3, 1, 2), self.bounds, self.dense.weight.dtype)
        x = F.relu(self.stacks(x)).flatten(1)
        return F.relu(self.dense(x))


@dataclass
class ImpalaEncoderConfig(ModelConfig):
    """Describes the encoder, so that a catalog can build it."""

    input_dims: Sequence[int] = ()
    channels: Sequence[int] = field(default=CHANNELS)
    dense: int = DENSE
    bounds: tuple[float, float] = BYTES

    @property
    @override(ModelConfig)
    def output_dims(self) -> tuple[int]:
        return (self.dense,)

    @override(ModelConfig)
    def build(self, framework: str = "torch") -> ImpalaEncoder:
        return ImpalaEncoder(self)


class ImpalaEncoder(TorchModel, Encoder):
    """`ImpalaCNN` with RLlib's interface: {"obs": images} -> {ENCODER_OUT: features}."""

    def __init__(self, config: ImpalaEncoderConfig):
        TorchModel.__init__(self, config)
        Encoder.__init__(self, config)
        self.net = ImpalaCNN(config.input_dims, config.channels, config.dense, config.bounds)

    @override(Encoder)
    def _forward(self, inputs: dict, **kwargs: object) -> dict:
        return {ENCODER_OUT: self.net(inputs[Columns.OBS])}
