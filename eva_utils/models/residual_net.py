"""Networks of our own for the assignment: residual blocks, dilated, gated and, at the end, depthwise separable.

One has under 100,000 parameters (95,092; 18.2 million multiply-adds; receptive field 69 before the pooling), the
other under 200,000 (197,244; 27.9 million; 113). The widths are those of ResNet-20 (He et al. 2016): 16, 32 and
64 channels at 32x32, 16x16 and 8x8. Below 32x32 the second convolution of each block of two is dilated by 2.
"""

from torch import Tensor, nn

from eva_utils.models.blocks import conv, conv_norm_relu, residual_convs, residual_separable


class ResidualNet(nn.Module):
    """Classify 32x32 colour images; (N, 3, 32, 32) float in, (N, num_classes) logits out.

    ``blocks`` are the numbers of residual blocks of two convolutions at 32x32, 16x16 and 8x8, ``separables`` that of
    the depthwise separable ones that follow.
    """

    def __init__(self, num_classes: int = 10, *, blocks: tuple[int, int, int], separables: int) -> None:
        super().__init__()
        large, middle, small = blocks
        self.layers = nn.Sequential(
            conv_norm_relu(3, 16),
            *(residual_convs(16) for _ in range(large)),
            conv_norm_relu(16, 32, stride=2),  # 32x32 -> 16x16
            *(residual_convs(32, dilation=2) for _ in range(middle)),
            conv_norm_relu(32, 64, stride=2),  # 16x16 -> 8x8
            *(residual_convs(64, dilation=2) for _ in range(small)),
            *(residual_separable(64) for _ in range(separables)),
            nn.AdaptiveAvgPool2d(1),
            conv(64, num_classes, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, 3, 32, 32)."""
        return self.layers(x).flatten(1)  # (N, num_classes, 1, 1) -> (N, num_classes)


def small_residual_net(num_classes: int = 10) -> ResidualNet:
    """Return the network with 95,092 parameters."""
    return ResidualNet(num_classes, blocks=(1, 2, 0), separables=4)


def residual_net(num_classes: int = 10) -> ResidualNet:
    """Return the network with 197,244 parameters."""
    return ResidualNet(num_classes, blocks=(1, 3, 1), separables=5)
