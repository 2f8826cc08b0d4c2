"""A network of large depthwise kernels and gated mixes of the channels, equivariant to the mirror.

Its blocks follow what github.com/xvel/cifar10-tiniest says of its network (a large depthwise kernel, normalisation, a
gated mix of the channels, a shortcut with a learned scale), of mirror convolutions: :mod:`eva_utils.models.mirror_net`
says what the halves of the channels are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva_utils.models.mirror_net import BothHalves, MirrorConv2d, MirrorDepthwise, MirrorNet


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each place, in the precision of its weights even under autocast.

    On a GPU autocast does this by itself; on a CPU torch would sum the gradients of weight and bias in bfloat16. (Ba
    et al. 2016, "Layer normalization".)
    """

    safe_in_half_precision = True  # what eva_utils.runtime.training_precision asks for

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        x = x.movedim(1, -1)
        return super().forward(x if self.weight is None else x.to(self.weight.dtype)).movedim(-1, 1)


class ChannelScale(nn.Module):
    """Multiply each channel by a number of its own, at first 1; the weight is (channels, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return x * self.weight


class MishGate(nn.Module):
    """Multiply the second half of the channels by Mish (Misra 2019) of the first.

    Raises ValueError for an odd number of channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 2 * channels, H, W) to (N, channels, H, W)."""
        if x.shape[1] % 2:
            raise ValueError(f"a map of {x.shape[1]} channels has no halves: choose an even number")
        gates, values = x.chunk(2, dim=1)
        # torch's code for a CPU computes Mish of what is not contiguous number by number, several times as slowly
        return F.mish(gates.contiguous(memory_format=torch.channels_last)) * values


class GatedMirror(nn.Module):
    """A depthwise 7x7 convolution, normalisation and a gated mix of the channels, beside a scaled shortcut.

    ``channels`` counts both halves. Raises ValueError for an odd number of them.
    """

    def __init__(self, channels: int, *, dilation: int = 1) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            *(MirrorDepthwise(channels, 7, dilation=dilation), BothHalves(ChannelNorm(half))),
            *(MirrorConv2d(channels, 2 * channels, kernel_size=1), BothHalves(MishGate())),
            MirrorConv2d(channels, channels, kernel_size=1),
        )
        self.shortcut = BothHalves(ChannelScale(half))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return self.shortcut(x) + self.body(x)


def small_gated_mirror_net(num_classes: int = 10) -> MirrorNet:
    """Return three gated blocks at 32x32 and five at 16x16: 91,424 parameters.

    57.6 million multiply-adds, receptive field 143x144 before the pooling.
    """
    return MirrorNet(
        nn.Sequential(MirrorConv2d(3, 32, of_image=True), BothHalves(ChannelNorm(16))),
        *(GatedMirror(32, dilation=dilation) for dilation in (1, 3, 1)),
        # 32x32 -> 16x16
        nn.Sequential(
            *(MirrorDepthwise(32), MirrorConv2d(32, 96, kernel_size=1, stride=2)),
            BothHalves(ChannelNorm(48)),
        ),
        *(GatedMirror(96, dilation=dilation) for dilation in (1, 3, 1, 3, 1)),
        channels=96,
        num_classes=num_classes,
    )
