"""Layers whose kernels are used twice, as they are and mirrored, and the blocks and the network that they make up.

The channels of their maps come in two halves: the second half of an image's map is the mirror image of the first half
of the mirrored image's map, at every layer and whatever the weights are (group-equivariant convolutions, Cohen &
Welling 2016, for the group of identity and mirror). So a layer has half the weights of an ordinary one with as many
channels, and logits taken from the mean of both halves are invariant: a mirrored cat is a cat before anything is
learned. Blocks map (N, in_channels, H, W) to (N, out_channels, H', W'), both halves counted.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva_utils.checks import whole_number
from eva_utils.models.blocks import Residual, conv, gate


class MirrorConv2d(nn.Conv2d):
    """A convolution to maps of two halves, equivariant to the mirror.

    The second half of the output channels has the first one's kernels, mirrored, with the two halves of their input
    channels exchanged. ``in_channels`` and ``out_channels`` count both halves; the weight is (out_channels / 2,
    in_channels, size, size). The colours of an image are no halves: the first layer, the lifting convolution, says
    ``of_image``. The size stays at stride 1 and is halved at stride 2, where the first half takes every other column
    from the left and the second every other from the right. Raises ValueError for an odd number of channels, an even
    kernel and a stride above 2.
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
        if out_channels % 2:
            raise ValueError(f"out_channels={out_channels}: its channels come in halves, choose an even number")
        if in_channels % 2 and not of_image:
            raise ValueError(
                f"in_channels={in_channels}: expected two halves; for the colours of an image: of_image=True"
            )
        if kernel_size % 2 == 0 or stride not in (1, 2):
            raise ValueError(f"kernel_size={kernel_size}, stride={stride}: expected an odd size and a stride of 1 or 2")
        padding = dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels // 2, kernel_size, stride, padding, dilation, bias=False)
        self.of_image = of_image

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        mirrored = self.weight.flip(3)
        if not self.of_image:
            mirrored = mirrored.roll(self.in_channels // 2, dims=1)  # a mirrored input has its halves exchanged
        if self.stride == (1, 1):
            return F.conv2d(x, torch.cat([self.weight, mirrored]), None, 1, self.padding, self.dilation)
        high, wide = self.padding
        less = wide - 1 + x.shape[3] % 2  # in an odd width both sides begin with the same columns
        left = F.conv2d(F.pad(x, (wide, less, high, high)), self.weight, None, 2, 0, self.dilation)
        right = F.conv2d(F.pad(x, (less, wide, high, high)), mirrored, None, 2, 0, self.dilation)
        return torch.cat([left, right], dim=1)


class MirrorDepthwise(nn.Conv2d):
    """A depthwise convolution with such halves, of equal size; the weight is (channels / 2, 1, size, size).

    ``dilation`` is that of its kernels. Raises ValueError for an odd number of channels and an even kernel.
    """

    def __init__(self, channels: int, kernel_size: int = 3, *, dilation: int = 1) -> None:
        if channels % 2 or kernel_size % 2 == 0:
            raise ValueError(f"{channels} channels, kernel_size={kernel_size}: expected two halves and an odd size")
        half, padding = channels // 2, dilation * (kernel_size // 2)
        super().__init__(half, half, kernel_size, 1, padding, dilation, groups=half, bias=False)

    def both_kernels(self) -> Tensor:
        """Return the kernels of both halves, (channels, 1, size, size)."""
        return torch.cat([self.weight, self.weight.flip(3)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return F.conv2d(x, self.both_kernels(), None, 1, self.padding, self.dilation, groups=2 * self.groups)


class BothHalves(nn.Sequential):
    """Layers that treat both halves alike: they see half as many channels, on a map of twice the width.

    They may work place by place or on the whole map, as normalisations and gates do, which so have one number for a
    channel and its mirrored twin; the columns of the two halves alternate. Raises ValueError for an odd number of
    channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape; the layers see (N, channels / 2, H, 2 W)."""
        if x.shape[1] % 2:
            raise ValueError(f"a map of {x.shape[1]} channels has no halves: choose an even number")
        width = x.shape[3]
        x = x.unflatten(1, (2, -1)).permute(0, 2, 3, 4, 1).flatten(3)
        return super().forward(x).unflatten(3, (width, 2)).permute(0, 4, 1, 2, 3).flatten(1, 2)


def mirror_norm_relu(in_channels: int, out_channels: int, *, stride: int = 1, of_image: bool = False) -> nn.Sequential:
    """Return a 3x3 mirror convolution, batch normalisation and ReLU.

    Raises ValueError where :class:`MirrorConv2d` does.
    """
    mirror = MirrorConv2d(in_channels, out_channels, stride=stride, of_image=of_image)
    return nn.Sequential(mirror, BothHalves(nn.BatchNorm2d(out_channels // 2)), nn.ReLU())


def mirror_convs(channels: int, *, dilation: int = 1) -> Residual:
    """Return a residual block of two 3x3 mirror convolutions, the second one dilated, and a gate.

    Raises ValueError for an odd number of channels.
    """
    half = channels // 2
    return Residual(
        mirror_norm_relu(channels, channels),
        MirrorConv2d(channels, channels, dilation=dilation),
        BothHalves(nn.BatchNorm2d(half), gate(half)),
    )


def mirror_separable(channels: int) -> Residual:
    """Return a residual block of a depthwise 3x3 and a pointwise 1x1 mirror convolution.

    Raises ValueError for an odd number of channels.
    """
    norm = BothHalves(nn.BatchNorm2d(channels // 2))
    return Residual(MirrorDepthwise(channels), MirrorConv2d(channels, channels, kernel_size=1), norm)


class MirrorNet(nn.Module):
    """Classify colour images; (N, 3, H, W) float in, (N, num_classes) logits out, equal for the mirror images.

    ``layers`` take the images to a map of ``channels`` channels, both halves counted, which is averaged over its places
    and its halves. Raises ValueError unless ``channels`` is an even number from 2 on.
    """

    def __init__(self, *layers: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        if whole_number("channels", channels, least=2) % 2:
            raise ValueError(f"channels={channels}: they come in halves, choose an even number")
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classify = conv(channels // 2, num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, 3, H, W)."""
        first, second = self.layers(x).chunk(2, dim=1)
        return self.classify((first + second) / 2).flatten(1)  # (N, num_classes, 1, 1) -> (N, num_classes)


def small_mirror_net(num_classes: int = 10) -> MirrorNet:
    """Return the layers of ``small_residual_net`` as mirror convolutions, 1.5 times as wide: 95,055 parameters.

    Without gates in the last four blocks. 40.4 million multiply-adds, receptive field 69x72 before the pooling.
    """
    return MirrorNet(
        mirror_norm_relu(3, 24, of_image=True),
        mirror_convs(24),
        mirror_norm_relu(24, 48, stride=2),  # 32x32 -> 16x16
        *(mirror_convs(48, dilation=2) for _ in range(2)),
        mirror_norm_relu(48, 96, stride=2),  # 16x16 -> 8x8
        *(mirror_separable(96) for _ in range(4)),
        channels=96,
        num_classes=num_classes,
    )


def mirror_net(num_classes: int = 10) -> MirrorNet:
    """Return one that leaves 32x32 with its second layer and is wider: 193,632 parameters.

    57.1 million multiply-adds, receptive field 97x100 before the pooling.
    """
    return MirrorNet(
        *(mirror_norm_relu(3, 32, of_image=True), mirror_norm_relu(32, 64, stride=2)),
        *(mirror_convs(64, dilation=2) for _ in range(2)),
        *(mirror_norm_relu(64, 128, stride=2), *(mirror_separable(128) for _ in range(8))),
        channels=128,
        num_classes=num_classes,
    )
