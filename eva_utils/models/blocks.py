"""The named blocks that the networks are built from.

A block's convolutions are followed by a batch normalisation, directly or behind a ReLU, and so have no bias, unless the
published table of a network says otherwise; in a depthwise separable layer it follows the second.
``padding=None`` means ``dilation * (kernel_size - 1) // 2``: the size stays at stride 1 and an even size is halved at
stride 2. Blocks map (N, in_channels, H, W) to (N, out_channels, H', W'). ``norm(channels)`` makes the normalisation of
that many channels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from eva_utils.checks import instance

Norm = Callable[[int], nn.Module]


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
) -> nn.Conv2d:
    """Return a convolution without bias.

    With an odd kernel and no other ``padding`` it keeps the size at stride 1 and halves an even one at stride 2.
    """
    if padding is None:
        padding = dilation * (kernel_size - 1) // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)


def depthwise(channels: int, *, dilation: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias of each channel by itself, which keeps the size."""
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False)


def gate(channels: int) -> SqueezeExcitation:
    """Return a squeeze-and-excitation (Hu et al. 2018) with a quarter of the channels between its two layers.

    Each channel is multiplied by a number from 0 to 1, which is computed from the means of all channels.
    """
    return SqueezeExcitation(channels, max(1, channels // 4))


def start_at_identity(model: nn.Module) -> None:
    """Let every convolution but the first start as one that hands its input on, with its random weights added.

    A one is added to the weight that joins each output channel to the input channel of the same number, in the middle
    of the kernel, as far as there are both (``torch.nn.init.dirac_``; after the Dirac parametrisation of Zagoruyko &
    Komodakis 2017). Each layer of a deep network without shortcuts so begins with its input, stirred, where random
    weights alone would mix what the layer before has mixed. Raises ValueError for a network that was started so before
    (a checkpoint tells one from the other) and for what is no network.
    """
    instance("model", model, nn.Module, "a network, such as build_network gives")
    if getattr(model, "started_at_identity", False):
        raise ValueError("start_at_identity was called on this network before: build it anew")
    model.started_at_identity = True
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for layer in convs[1:]:
            layer.weight += nn.init.dirac_(torch.empty_like(layer.weight), groups=layer.groups)


def conv_relu_norm(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    norm: Norm = nn.BatchNorm2d,
) -> nn.Sequential:
    """Return a 3x3 convolution, ReLU and normalisation, the order of DilatedNet."""
    return nn.Sequential(
        conv(in_channels, out_channels, stride=stride, dilation=dilation),
        nn.ReLU(),
        norm(out_channels),
    )


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
) -> nn.Sequential:
    """Return a 3x3 convolution, batch normalisation and ReLU, the order of DilatedSeparableNet."""
    return nn.Sequential(
        conv(in_channels, out_channels, stride=stride, dilation=dilation, padding=padding),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def separable_relu_norm(in_channels: int, out_channels: int, *, norm: Norm = nn.BatchNorm2d) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise 1x1 convolution, ReLU and normalisation.

    The depthwise separable convolution of MobileNet (Howard et al. 2017) costs
    ``9 * in_channels + in_channels * out_channels`` weights where an ordinary 3x3 convolution costs
    ``9 * in_channels * out_channels``.
    """
    return nn.Sequential(
        depthwise(in_channels),
        conv(in_channels, out_channels, kernel_size=1),
        nn.ReLU(),
        norm(out_channels),
    )


def separable_norm_relu(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise 1x1 convolution, normalisation and ReLU.

    The stride is the pointwise one's: the same function as with the depthwise one's, and on a CPU the quicker way.
    """
    return nn.Sequential(
        depthwise(in_channels),
        conv(in_channels, out_channels, kernel_size=1, stride=stride),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class depthwise_separable_conv(nn.Module):  # noqa: N801 - the published table of its network prints this name
    """A depthwise 3x3 and a pointwise 1x1 convolution, both with bias.

    It is a module of its own, not a sequence, because the published table of DilatedSeparableNet gives it a row.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return self.pointwise(self.depthwise(x))


class Residual(nn.Module):
    """Layers beside a shortcut, ``relu(x + body(x))`` (He et al. 2016); the body ends without an activation."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return F.relu(x + self.body(x))


def residual_convs(channels: int, *, dilation: int = 1) -> Residual:
    """Return a residual block of two 3x3 convolutions, the second one dilated, and a :func:`gate`."""
    return Residual(
        conv_norm_relu(channels, channels),
        conv(channels, channels, dilation=dilation),
        nn.BatchNorm2d(channels),
        gate(channels),
    )


def residual_separable(channels: int) -> Residual:
    """Return a residual block of a depthwise 3x3 and a pointwise 1x1 convolution and a :func:`gate`."""
    return Residual(
        depthwise(channels),
        conv(channels, channels, kernel_size=1),
        nn.BatchNorm2d(channels),
        gate(channels),
    )
