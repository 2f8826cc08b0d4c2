"""Networks that are compared with the library's: peers' designs written anew, other designs of our own, and teachers.

Peers: ResNet-20 (He et al. 2016), DenseNet-BC-40 with k=12 (Huang et al. 2017), and a network of large depthwise
kernels after the description of one with 97,530 parameters. All map (N, 3, 32, 32) to logits (N, num_classes).
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from quick_depthwise import QuickDepthwise
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from eva_utils import conv, conv_norm_relu, residual_convs, residual_separable, separable_norm_relu
from eva_utils.models.blocks import Residual, depthwise
from eva_utils.models.gated_mirror_net import ChannelNorm, ChannelScale, GatedMirror, MishGate
from eva_utils.models.mirror_net import (
    BothHalves,
    MirrorConv2d,
    MirrorDepthwise,
    MirrorNet,
    mirror_convs,
    mirror_norm_relu,
    mirror_separable,
)
from eva_utils.models.residual_net import residual_net, small_residual_net


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the size or the channels change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm_relu(in_channels, out_channels, stride=stride),
            conv(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = conv(in_channels, out_channels, kernel_size=1, stride=stride)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return F.relu(self.body(x) + self.shortcut(x))


def resnet20(num_classes: int = 10) -> nn.Sequential:
    """Return ResNet-20: three stages of three blocks, 272,474 parameters."""
    layers: list[nn.Module] = [conv_norm_relu(3, 16)]
    channels = 16
    for width in (16, 32, 64):
        for _ in range(3):
            layers.append(BasicBlock(channels, width, stride=width // channels))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution, each behind normalisation and ReLU, whose output joins the input's channels."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.BatchNorm2d(in_channels), nn.ReLU(), conv(in_channels, 4 * growth, kernel_size=1)),
            *(nn.BatchNorm2d(4 * growth), nn.ReLU(), conv(4 * growth, growth)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, in_channels + growth, H, W)."""
        return torch.cat([x, self.body(x)], dim=1)


def densenet40(num_classes: int = 10, growth: int = 12) -> nn.Sequential:
    """Return DenseNet-BC-40: three blocks of six layers, halved between them, 176,122 parameters."""
    channels = 2 * growth
    layers: list[nn.Module] = [conv(3, channels)]
    for block in range(3):
        if block:
            halved = channels // 2
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, halved, kernel_size=1), nn.AvgPool2d(2)]
            channels = halved
        for _ in range(6):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, num_classes))


class ManyScales(nn.Module):
    """Quarters of the channels look at one place, at 3x3, at 7x7 and, smoothed, at 21x21; then a gated mix."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter = channels // 4
        self.near = nn.Conv2d(quarter, quarter, 3, padding=1, groups=quarter)
        self.middle = nn.Conv2d(quarter, quarter, 7, padding=3, groups=quarter)
        self.far = QuickDepthwise(quarter, kernel_size=7, dilation=3)
        self.norm = ChannelNorm(channels)
        self.mix = nn.Conv2d(channels, 2 * channels, 1)
        self.gate = MishGate()
        self.out = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))  # of the shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        same, near, middle, far = x.chunk(4, dim=1)
        far = self.far(F.avg_pool2d(far, 3, stride=1, padding=1))
        seen = torch.cat([same, self.near(near), self.middle(middle), far], dim=1)
        return x * self.scale + self.out(self.gate(self.mix(self.norm(seen))))


def many_scales(num_classes: int = 10) -> nn.Sequential:
    """Return three such blocks at 32x32 and three at 16x16, 97,530 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(3, 48, 3, padding=1), ChannelNorm(48)),
        *(ManyScales(48) for _ in range(3)),
        *(nn.Conv2d(48, 80, 4, stride=2, padding=1, groups=16), ChannelNorm(80)),
        *(ManyScales(80) for _ in range(3)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(80, num_classes)),
    )


def head(channels: int, num_classes: int) -> tuple[nn.Module, ...]:
    """Return the layers from a map of so many channels to the logits, without a fully connected one."""
    return nn.AdaptiveAvgPool2d(1), conv(channels, num_classes, kernel_size=1), nn.Flatten()


def halving(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return two 3x3 convolutions, the first of them max pooled to half the size."""
    return nn.Sequential(
        *(conv(in_channels, out_channels), nn.MaxPool2d(2), nn.BatchNorm2d(out_channels), nn.ReLU()),
        conv_norm_relu(out_channels, out_channels),
    )


def halvings(widths: tuple[int, int, int], num_classes: int) -> nn.Sequential:
    """Return a convolution to 24 channels, three halvings to these widths, the mean and a fully connected layer."""
    pairs = itertools.pairwise((24, *widths))
    layers = [conv_norm_relu(3, 24), *(halving(before, after) for before, after in pairs)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))


def small_teacher(num_classes: int = 10) -> nn.Sequential:
    """Return a network without the assignment's limits, quick to train: three halvings, 1,123,586 parameters."""
    return halvings((48, 128, 256), num_classes)


def teacher(num_classes: int = 10) -> nn.Sequential:
    """Return a wider one, 1,973,186 parameters; widths of the 94% network of Jordan 2024, "airbench"."""
    return halvings((64, 256, 256), num_classes)


def large_teacher(num_classes: int = 10) -> nn.Sequential:
    """Return the widest one, halfway between Jordan's networks of 94% and 95%: 3,151,810 parameters."""
    return halvings((96, 320, 320), num_classes)


def residual_teacher(num_classes: int = 10) -> nn.Sequential:
    """Return one with shortcuts, for a GPU: 7,495,114 parameters and 828 million multiply-adds."""
    return nn.Sequential(
        *(conv_norm_relu(3, 64), BasicBlock(64, 64)),
        *(conv_norm_relu(64, 192, stride=2), BasicBlock(192, 192), BasicBlock(192, 192)),
        *(conv_norm_relu(192, 384, stride=2), BasicBlock(384, 384), BasicBlock(384, 384)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(384, num_classes)),
    )


def separable(channels: int, dilation: int = 1) -> Residual:
    """Return a residual block of a depthwise 3x3 and a pointwise 1x1 convolution."""
    return Residual(
        depthwise(channels, dilation=dilation),
        conv(channels, channels, kernel_size=1),
        nn.BatchNorm2d(channels),
    )


def separable_stack(num_classes: int = 10) -> nn.Sequential:
    """Return thirteen depthwise separable layers, every other one at 16x16 dilated by 2: 94,528 parameters."""
    return nn.Sequential(
        *(conv_norm_relu(3, 32), separable(32), separable(32), conv_norm_relu(32, 64, stride=2)),
        *(separable(64, dilation=1 + number % 2) for number in range(7)),
        *(separable_norm_relu(64, 96, stride=2), separable(96), separable(96), separable(96)),
        *head(96, num_classes),
    )


def full_size_stack(num_classes: int = 10) -> nn.Sequential:
    """Return thirteen of them, seven at 32x32, for a GPU: 94,688 parameters and 50 million multiply-adds."""
    return nn.Sequential(
        *(conv_norm_relu(3, 64), *(separable(64, dilation=1 + number % 2) for number in range(7))),
        *(separable_norm_relu(64, 96, stride=2), *(separable(96, dilation=1 + number % 2) for number in range(5))),
        *head(96, num_classes),
    )


class LargeKernel(nn.Module):
    """A depthwise 7x7 convolution, layer normalisation and a gated mix of the channels, beside a scaled shortcut."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 7, 1, 3 * dilation, dilation, groups=channels, bias=False),
            *(ChannelNorm(channels), conv(channels, 2 * channels, kernel_size=1), MishGate()),
            conv(channels, channels, kernel_size=1),
        )
        self.shortcut = ChannelScale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return self.shortcut(x) + self.body(x)


def large_kernel_net(num_classes: int = 10) -> nn.Sequential:
    """Return three such blocks at 32x32 and three at 16x16, for a GPU: 98,448 parameters and 47 million multiply-adds.

    After `many_scales`, but by the assignment's rules: each channel is seen at 7x7, a depthwise separable convolution
    halves the size, and there is no fully connected layer.
    """
    return nn.Sequential(
        *(conv_norm_relu(3, 48), LargeKernel(48), LargeKernel(48, dilation=3), LargeKernel(48)),
        *(separable_norm_relu(48, 76, stride=2), LargeKernel(76), LargeKernel(76, dilation=3), LargeKernel(76)),
        *head(76, num_classes),
    )


def wide_large_kernel_net(num_classes: int = 10) -> nn.Sequential:
    """Return two such blocks at 32x32 and four, wider, at 16x16: 172,824 parameters and 59 million multiply-adds."""
    return nn.Sequential(
        *(conv_norm_relu(3, 48), LargeKernel(48), LargeKernel(48, dilation=3)),
        separable_norm_relu(48, 102, stride=2),
        *(LargeKernel(102), LargeKernel(102, dilation=3), LargeKernel(102), LargeKernel(102)),
        *head(102, num_classes),
    )


def gated_mirror(num_classes: int = 10, *, stages: tuple[tuple[int, tuple[int, ...]], ...]) -> MirrorNet:
    """Return another form of `small_gated_mirror_net`, of these widths and dilations of the blocks at each size.

    The forms below tell parameters and multiply-adds.
    """
    layers: list[nn.Module] = []
    channels = 3
    for width, dilations in stages:
        change: tuple[nn.Module, ...] = (MirrorConv2d(channels, width, of_image=True),)
        if layers:
            change = MirrorDepthwise(channels), MirrorConv2d(channels, width, kernel_size=1, stride=2)
        blocks = (GatedMirror(width, dilation=dilation) for dilation in dilations)
        layers += [nn.Sequential(*change, BothHalves(ChannelNorm(width // 2))), *blocks]
        channels = width
    return MirrorNet(*layers, channels=channels, num_classes=num_classes)


def gated_mirror_32_100(num_classes: int = 10) -> MirrorNet:
    """Return a gated mirror net with fewer blocks at 32x32, and wider ones at 16x16: 95,544 parameters, 56 million."""
    return gated_mirror(num_classes, stages=((32, (1, 3)), (100, (1, 3, 1, 3, 1))))


def gated_mirror_32_80_128(num_classes: int = 10) -> MirrorNet:
    """Return a gated mirror net whose last block is at 8x8: 99,256 parameters, 45 million."""
    return gated_mirror(num_classes, stages=((32, (1, 3)), (80, (1, 3, 1, 3, 1)), (128, (1,))))


def gated_mirror_32_96_176(num_classes: int = 10) -> MirrorNet:
    """Return a wider gated mirror net, two blocks of it at 8x8: 184,272 parameters, 59 million."""
    return gated_mirror(num_classes, stages=((32, (1, 3)), (96, (1, 3, 1, 3)), (176, (1, 1))))


def gated_mirror_32_112_176(num_classes: int = 10) -> MirrorNet:
    """Return a gated mirror net with fewer blocks at 16x16, and wider ones: 185,928 parameters, 59 million."""
    return gated_mirror(num_classes, stages=((32, (1, 3)), (112, (1, 3, 1)), (176, (1, 1))))


def shared(first: nn.Conv2d, second: nn.Conv2d, *, gated: bool = False) -> Residual:
    """Return a residual block of two convolutions that other blocks use as well, with norms and a gate of its own."""
    channels = first.out_channels
    gate = [SqueezeExcitation(channels, channels // 4)] if gated else []
    return Residual(first, nn.BatchNorm2d(channels), nn.ReLU(), second, nn.BatchNorm2d(channels), *gate)


def shared_pair(num_classes: int = 10) -> nn.Sequential:
    """Return a network with one pair of 3x3 convolutions, used twice at 16x16 and at 8x8: 94,800 parameters."""
    stem = conv_norm_relu(3, 16), conv_norm_relu(16, 64, stride=2)
    pair = conv(64, 64), conv(64, 64, dilation=2)
    return nn.Sequential(
        *(*stem, shared(*pair), shared(*pair), separable_norm_relu(64, 64, stride=2), shared(*pair), shared(*pair)),
        *(separable(64), *head(64, num_classes)),
    )


def two_pairs(num_classes: int = 10, *, gated: bool = False) -> nn.Sequential:
    """Return a network with a pair of 3x3 convolutions used twice at 16x16, and one four times at 8x8: 157,824."""
    large, small = ((conv(64, 64), conv(64, 64, dilation=2)) for _ in range(2))
    blocks = [shared(*pair, gated=gated) for pair in (large, large, small, small, small, small)]
    return nn.Sequential(
        *(conv_norm_relu(3, 32), separable_norm_relu(32, 64, stride=2), *blocks[:2]),
        *(separable_norm_relu(64, 64, stride=2), *blocks[2:], *head(64, num_classes)),
    )


def gated_pairs(num_classes: int = 10) -> nn.Sequential:
    """Return the same with a gate at the end of each block: 170,592 parameters."""
    return two_pairs(num_classes, gated=True)


def early_64(num_classes: int = 10) -> nn.Sequential:
    """Return a network that leaves 32x32 at once, with 64 channels at 16x16 and at 8x8: 197,936 parameters."""
    return nn.Sequential(
        *(conv_norm_relu(3, 32), conv_norm_relu(32, 64, stride=2)),
        *(residual_convs(64, dilation=2), separable_norm_relu(64, 64, stride=2)),
        *(residual_convs(64, dilation=2), *(residual_separable(64) for _ in range(3))),
        *head(64, num_classes),
    )


def deep_residual_net(num_classes: int = 10) -> nn.Sequential:
    """Return one with the widths of `small_residual_net` and more blocks: 197,244 parameters."""
    return nn.Sequential(
        *(conv_norm_relu(3, 16), residual_convs(16)),
        *(conv_norm_relu(16, 32, stride=2), *(residual_convs(32, dilation=2) for _ in range(3))),
        *(conv_norm_relu(32, 64, stride=2), residual_convs(64, dilation=2)),
        *(residual_separable(64) for _ in range(5)),
        *head(64, num_classes),
    )


def small_early_64(num_classes: int = 10) -> nn.Sequential:
    """Return a smaller one with 48 channels at 16x16 and 64 at 8x8: 96,188 parameters."""
    return nn.Sequential(
        *(conv_norm_relu(3, 16), conv_norm_relu(16, 48, stride=2)),
        *(residual_convs(48, dilation=2), separable_norm_relu(48, 64, stride=2)),
        *(residual_separable(64) for _ in range(6)),
        *head(64, num_classes),
    )


def small_early_96(num_classes: int = 10) -> nn.Sequential:
    """Return a smaller one with 48 channels at 16x16 and 96 at 8x8: 94,628 parameters."""
    return nn.Sequential(
        *(conv_norm_relu(3, 16), conv_norm_relu(16, 48, stride=2), residual_convs(48, dilation=2)),
        *(residual_separable(48), residual_separable(48), separable_norm_relu(48, 96, stride=2)),
        *(residual_separable(96), residual_separable(96)),
        *head(96, num_classes),
    )


def small_early_dense(num_classes: int = 10) -> nn.Sequential:
    """Return a smaller one whose block of two 3x3 convolutions has 64 channels: 98,800 parameters."""
    return nn.Sequential(
        *(conv_norm_relu(3, 32), separable_norm_relu(32, 64, stride=2), residual_convs(64, dilation=2)),
        *(separable_norm_relu(64, 64, stride=2), residual_separable(64), residual_separable(64)),
        *head(64, num_classes),
    )


def replace_stride_with_dilation(model: nn.Module, *, halvings: int = 1) -> nn.Module:
    """Let only so many layers halve the size: further strides become 1, and kernels behind them dilated twice as far.

    Each weight stays, and each place of the map sees what it saw, but the map has four times as many places (Yu et al.
    2017, "Dilated Residual Networks").
    """
    factor = 1
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            if layer.kernel_size != (1, 1):
                layer.dilation = tuple(factor * step for step in layer.dilation)
                layer.padding = tuple(factor * size for size in layer.padding)
            if layer.stride == (2, 2) and halvings == 0:
                layer.stride = (1, 1)
                factor *= 2
            elif layer.stride == (2, 2):
                halvings -= 1
    return model


def small_dilated_residual_net(num_classes: int = 10) -> nn.Module:
    """Return `small_residual_net` with its second stride replaced with dilation."""
    return replace_stride_with_dilation(small_residual_net(num_classes))


def dilated_residual_net(num_classes: int = 10) -> nn.Module:
    """Return `residual_net` with its second stride replaced with dilation."""
    return replace_stride_with_dilation(residual_net(num_classes))


def narrow_mirror_net(num_classes: int = 10) -> MirrorNet:
    """Return one with 16 channels at 32x32 and one more block: 95,406 parameters and 34 million multiply-adds."""
    return MirrorNet(
        *(mirror_norm_relu(3, 16, of_image=True), mirror_convs(16)),
        *(mirror_norm_relu(16, 48, stride=2), *(mirror_convs(48, dilation=2) for _ in range(2))),
        *(mirror_norm_relu(48, 96, stride=2), *(mirror_separable(96) for _ in range(5))),
        channels=96,
        num_classes=num_classes,
    )


def wide_residual_net(num_classes: int = 10) -> nn.Sequential:
    """Return `small_mirror_net` with ordinary convolutions of as many channels, for comparison: 191,406 parameters."""
    return nn.Sequential(
        *(conv_norm_relu(3, 24), residual_convs(24)),
        *(conv_norm_relu(24, 48, stride=2), *(residual_convs(48, dilation=2) for _ in range(2))),
        *(conv_norm_relu(48, 96, stride=2), *(separable(96) for _ in range(4))),
        *head(96, num_classes),
    )


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet20": resnet20,
    "densenet40": densenet40,
    "many_scales": many_scales,
    "separable_stack": separable_stack,
    "full_size_stack": full_size_stack,
    "large_kernel_net": large_kernel_net,
    "wide_large_kernel_net": wide_large_kernel_net,
    "gated_mirror_32_100": gated_mirror_32_100,
    "gated_mirror_32_80_128": gated_mirror_32_80_128,
    "gated_mirror_32_96_176": gated_mirror_32_96_176,
    "gated_mirror_32_112_176": gated_mirror_32_112_176,
    "shared_pair": shared_pair,
    "two_pairs": two_pairs,
    "gated_pairs": gated_pairs,
    "early_64": early_64,
    "deep_residual_net": deep_residual_net,
    "small_early_64": small_early_64,
    "small_early_96": small_early_96,
    "small_early_dense": small_early_dense,
    "small_dilated_residual_net": small_dilated_residual_net,
    "dilated_residual_net": dilated_residual_net,
    "narrow_mirror_net": narrow_mirror_net,
    "wide_residual_net": wide_residual_net,
    "small_teacher": small_teacher,
    "teacher": teacher,
    "large_teacher": large_teacher,
    "residual_teacher": residual_teacher,
}
