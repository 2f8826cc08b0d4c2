"""The named blocks that the networks are built from.

Every convolution is followed by a batch normalisation, directly or behind a ReLU, and has no bias
unless a table says otherwise. ``padding=None`` means ``dilation * (kernel_size - 1) // 2``: the size
stays at stride 1 and an even size is halved at stride 2. Blocks map (N, in_channels, H, W) to
(N, out_channels, H', W'). ``norm(channels)`` makes the normalisation of that many channels.
"""

from collections.abc import Callable

from torch import Tensor, nn

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
    """Return a convolution without bias that keeps the size at stride 1 and halves it at stride 2."""
    if padding is None:
        padding = dilation * (kernel_size - 1) // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)


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
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        conv(in_channels, out_channels, kernel_size=1),
        nn.ReLU(),
        norm(out_channels),
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
