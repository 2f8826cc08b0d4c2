"""Networks of our own for the assignment: residual blocks, dilated, gated and, at the end, depthwise separable.

One has under 100,000 parameters (95,092; 18.2 million multiply-adds; receptive field 69 before the pooling). Its widths
are those of ResNet-20 (He et al. 2016): 16, 32 and 64 channels at 32x32, 16x16 and 8x8. The other has under 200,000
(191,264; 29.7 million; 49), leaves 32x32 with its second layer and has 64 channels at 16x16 and 128 at 8x8. Below
32x32 the second convolution of each block of two is dilated by 2.
"""

from torch import Tensor, nn

from eva_utils.models.blocks import conv, conv_norm_relu, residual_convs, residual_separable, separable_norm_relu


class ResidualNet(nn.Module):
    """Classify 32x32 colour images; (N, 3, 32, 32) float in, (N, num_classes) logits out.

    ``layers`` take the images to a map of ``channels`` channels, which is averaged over its places.
    """

    def __init__(self, *layers: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), conv(channels, num_classes, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, 3, 32, 32)."""
        return self.layers(x).flatten(1)  # (N, num_classes, 1, 1) -> (N, num_classes)


def small_residual_net(num_classes: int = 10) -> ResidualNet:
    """Return the network with 95,092 parameters."""
    return ResidualNet(
        conv_norm_relu(3, 16),
        residual_convs(16),
        conv_norm_relu(16, 32, stride=2),  # 32x32 -> 16x16
        *(residual_convs(32, dilation=2) for _ in range(2)),
        conv_norm_relu(32, 64, stride=2),  # 16x16 -> 8x8
        *(residual_separable(64) for _ in range(4)),
        channels=64,
        num_classes=num_classes,
    )


def residual_net(num_classes: int = 10) -> ResidualNet:
    """Return the network with 191,264 parameters."""
    return ResidualNet(
        conv_norm_relu(3, 32),
        conv_norm_relu(32, 64, stride=2),  # 32x32 -> 16x16
        residual_convs(64, dilation=2),
        residual_separable(64),
        separable_norm_relu(64, 128, stride=2),  # 16x16 -> 8x8
        *(residual_separable(128) for _ in range(3)),
        channels=128,
        num_classes=num_classes,
    )
