"""Depthwise convolutions of large kernels, computed in forms for which torch has fast code on a CPU.

The numbers are torch's. A dilated kernel reads every so many-th place: on the subgrid of such places it is an undilated
one. And the gradient of kernels larger than 3x3, for which torch 2.11 takes ten times as long as for the map itself and
longer, is composed of gradients of kernels that are three columns wide, which are quick.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva_utils.models.mirror_net import MirrorDepthwise


class QuickDepthwise(nn.Conv2d):
    """A depthwise convolution that keeps the size, with the parameters and numbers of nn.Conv2d.

    Raises ValueError for an even kernel.
    """

    safe_in_half_precision = True  # what eva_utils.runtime.training_precision asks for

    def __init__(self, channels: int, kernel_size: int, dilation: int, *, bias: bool = True) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size}: expected an odd size")
        padding = dilation * (kernel_size // 2)
        super().__init__(channels, channels, kernel_size, 1, padding, dilation, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        x = on_subgrids(x, self.weight, self.dilation[0])
        return x if self.bias is None else x + self.bias.to(x.dtype)[:, None, None]


class QuickMirrorDepthwise(MirrorDepthwise):
    """The library's layer in the same forms."""

    safe_in_half_precision = True

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return on_subgrids(x, self.both_kernels(), self.dilation[0])


def on_subgrids(x: Tensor, kernels: Tensor, step: int) -> Tensor:
    """Return the depthwise convolution, dilated by ``step``, of maps (N, channels, H, W), of the same shape."""
    if step == 1:
        return convolve(x, kernels)
    count, _, height, width = x.shape
    rows, columns = -(-height // step), -(-width // step)  # rounded up
    x = F.pad(x, (0, columns * step - width, 0, rows * step - height))
    x = x.unflatten(3, (columns, step)).unflatten(2, (rows, step))
    x = x.permute(0, 3, 5, 2, 4, 1).flatten(0, 2)  # (count * step * step, rows, columns, channels)
    x = convolve(x.movedim(-1, 1), kernels)
    x = x.movedim(1, -1).unflatten(0, (count, step, step)).permute(0, 3, 1, 4, 2, 5)
    return x.flatten(3, 4).flatten(1, 2).movedim(-1, 1)[:, :, :height, :width]


def convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Return the undilated depthwise convolution of maps (N, channels, H, W), of the same shape."""
    side = kernels.shape[2]
    if x.device.type != "cpu" or side <= 3:
        return F.conv2d(x, kernels, padding=side // 2, groups=x.shape[1])
    if torch.is_autocast_enabled("cpu"):  # else what is kept for the gradient is float32, which meets one in bfloat16
        dtype = torch.get_autocast_dtype("cpu")
        x, kernels = x.to(dtype), kernels.to(dtype)
    return _Depthwise.apply(x, kernels)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, kernels: Tensor) -> Tensor:
        return F.conv2d(x, kernels, padding=kernels.shape[2] // 2, groups=x.shape[1])

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, kernels = ctx.saved_tensors
        side = kernels.shape[2]
        turned = kernels.flip(2, 3)
        return (
            F.conv2d(grad, turned, padding=side // 2, groups=x.shape[1]) if ctx.needs_input_grad[0] else None,
            kernel_gradient(x, grad, side) if ctx.needs_input_grad[1] else None,
        )


def kernel_gradient(x: Tensor, grad: Tensor, side: int) -> Tensor:
    """Return the kernels' gradient (channels, 1, side, side), of inputs and output gradients (N, channels, H, W).

    It is that of kernels of three columns, ``side`` rows, for one input after another, each moved by three columns.
    """
    channels, height, width = x.shape[1:]
    half, more = side // 2, max(0, side - height)  # what is quick needs maps as high as the kernel
    wide, grad = F.pad(x, (half, half + -side % 3, 0, more)), F.pad(grad, (0, 0, 0, more))
    kernels = x.new_empty(channels, 1, side, 3)
    settings = (None, (1, 1), (half, 0), (1, 1), False, (0, 0), channels, (False, True, False))  # padding: rows alone
    parts = []
    for first in range(0, side, 3):
        part = wide[..., first : first + width + 2].contiguous(memory_format=torch.channels_last)
        parts.append(torch.ops.aten.convolution_backward(grad, part, kernels, *settings)[1])
    return torch.cat(parts, dim=3)[..., :side]
