"""Layers whose kernels are used twice, as they are and mirrored, and the blocks and the network that they make up.

The channels of their maps come in two halves: the second half of an image's map is the mirror image of the first half
of the mirrored image's map, at every layer and whatever the weights are (a group convolution, Cohen & Welling 2016,
for the group of identity and mirror). So a mirrored cat is a cat before anything is learned, and a layer has half the
weights of an ordinary one with as many channels. Blocks map (N, in_channels, H, W) to (N, out_channels, H', W'), both
halves counted.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from eva_utils.models.blocks import Residual, conv


class MirrorConv2d(nn.Conv2d):
    """A convolution to maps of two halves: the second half of the output channels has the mirrored kernels.

    ``in_channels`` and ``out_channels`` count both halves; the weight is (out_channels / 2, in_channels, size, size).
    The colours of an image are no halves: the first layer says ``of_image``. At a stride of 2 the first half takes
    every other column from the left, and the second half every other from the right. The size stays at stride 1 and is
    halved at stride 2. Raises ValueError for an odd number of channels, an even kernel, and a stride above 2; at a
    stride of 2, in the forward pass, for maps of an odd width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        of_image: bool = False,
    ) -> None:
        if out_channels % 2 or (in_channels % 2 and not of_image):
            raise ValueError(f"{in_channels} to {out_channels} channels: both come in halves, choose even numbers")
        if kernel_size % 2 == 0 or stride not in (1, 2):
            raise ValueError(f"kernel_size={kernel_size}, stride={stride}: expected an odd size and a stride of 1 or 2")
        padding = dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels // 2, kernel_size, stride, padding, dilation, bias=False)
        self.of_image = of_image

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        mirrored = self.weight.flip(3)
        if not self.of_image:
            mirrored = mirrored.roll(self.in_channels // 2, dims=1)  # what is the first half to one is the second to it
        if self.stride == (1, 1):
            return F.conv2d(x, torch.cat([self.weight, mirrored]), None, 1, self.padding, self.dilation)
        if x.shape[3] % 2:
            raise ValueError(f"a map of {x.shape[2]}x{x.shape[3]}: at a stride of 2 its width must be even")
        high, wide = self.padding
        left = F.conv2d(F.pad(x, (wide, wide - 1, high, high)), self.weight, None, 2, 0, self.dilation)
        right = F.conv2d(F.pad(x, (wide - 1, wide, high, high)), mirrored, None, 2, 0, self.dilation)
        return torch.cat([left, right], dim=1)


class MirrorDepthwise(nn.Conv2d):
    """A depthwise 3x3 convolution with such halves; the weight is (channels / 2, 1, 3, 3).

    Raises ValueError for an odd number of channels.
    """

    def __init__(self, channels: int) -> None:
        if channels % 2:
            raise ValueError(f"{channels} channels come in halves: choose an even number")
        super().__init__(channels // 2, channels // 2, 3, padding=1, groups=channels // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return F.conv2d(x, torch.cat([self.weight, self.weight.flip(3)]), None, 1, 1, groups=2 * self.groups)


class BothHalves(nn.Sequential):
    """Layers that treat both halves alike: they see one half's channels, on a map of twice the width.

    A normalisation or a gate in it has one number for a channel and its mirrored twin.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape; the layers see (N, channels / 2, H, 2 W)."""
        width = x.shape[3]
        x = x.unflatten(1, (2, -1)).permute(0, 2, 3, 4, 1).flatten(3)
        return super().forward(x).unflatten(3, (width, 2)).permute(0, 4, 1, 2, 3).flatten(1, 2)


def mirror_norm_relu(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
    """Return a mirror convolution, which takes the options, batch normalisation and ReLU."""
    mirror = MirrorConv2d(in_channels, out_channels, **options)
    return nn.Sequential(mirror, BothHalves(nn.BatchNorm2d(out_channels // 2)), nn.ReLU())


def mirror_convs(channels: int, *, dilation: int = 1) -> Residual:
    """Return a residual block of two 3x3 mirror convolutions, the second one dilated, and a gate."""
    half = channels // 2
    return Residual(
        mirror_norm_relu(channels, channels),
        MirrorConv2d(channels, channels, dilation=dilation),
        BothHalves(nn.BatchNorm2d(half), SqueezeExcitation(half, half // 4)),
    )


def mirror_separable(channels: int) -> Residual:
    """Return a residual block of a depthwise 3x3 and a pointwise 1x1 mirror convolution."""
    norm = BothHalves(nn.BatchNorm2d(channels // 2))
    return Residual(MirrorDepthwise(channels), MirrorConv2d(channels, channels, kernel_size=1), norm)


class MirrorNet(nn.Module):
    """Classify 32x32 colour images; (N, 3, 32, 32) float in, (N, num_classes) logits out.

    ``layers`` take the images to a map of ``channels`` channels, which is averaged over its places and its halves: the
    logits of an image and of its mirror image are equal, up to rounding.
    """

    def __init__(self, *layers: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classify = conv(channels // 2, num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, 3, 32, 32)."""
        first, second = self.layers(x).chunk(2, dim=1)
        return self.classify((first + second) / 2).flatten(1)  # (N, num_classes, 1, 1) -> (N, num_classes)
