"""Receptive fields, measured by gradients: which pixels can change a unit of a network, and how much each does."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.ops import SqueezeExcitation

from eva_utils.dataflow import copy_of, trace_dataflow
from eva_utils.fields import follow

WHOLE_MAP = (nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm, SqueezeExcitation)


def measure_receptive_field(
    model: nn.Module, input_size: tuple[int, ...] = (3, 32, 32), layer: str | None = None
) -> tuple[int, ...]:
    """Measure, on each axis, how far apart the pixels are that change the centre unit of a layer.

    ``layer`` is a module's name, by default that of the last map before the global pooling. The gradient is taken in a
    copy of the model in which nothing can cancel or saturate: small positive weights and inputs, averages in place of
    maxima, batch normalisations that change nothing; gates (torchvision's SqueezeExcitation) and layer, group and
    instance normalisations, which see the whole map, are left out. The field is cut off at the border of the image:
    ``input_size`` (channels, height, width) has to be about twice as large to see all of it. Raises ValueError for a
    layer that is not there, gives no map or depends on no pixel.
    """
    return tuple(last - first + 1 for first, last in touched_pixels(model, input_size, layer))


def touched_pixels(
    model: nn.Module, input_size: tuple[int, ...] = (3, 32, 32), layer: str | None = None
) -> tuple[tuple[int, int], ...]:
    """Return, for each axis, the first and the last pixel that change the centre unit of a layer.

    It is measured as in :func:`measure_receptive_field`. Raises ValueError if no pixel does.
    """
    clone = copy_of(model).double()
    for module in list(clone.modules()):
        for name, child in module.named_children():
            if isinstance(child, WHOLE_MAP):
                setattr(module, name, nn.Identity())
    for module in clone.modules():
        _make_positive(module)
    with _AverageForMaximum():
        pixels = _unit_gradient(clone, torch.ones(1, *input_size, dtype=torch.float64), layer)
    where = pixels.nonzero()
    if not len(where):
        raise ValueError("no pixel changes the unit: does the layer depend on the image?")
    return tuple(zip(where.amin(dim=0).tolist(), where.amax(dim=0).tolist(), strict=True))


def effective_receptive_field(model: nn.Module, images: Tensor, layer: str | None = None) -> np.ndarray:
    """Return how much each pixel really changes the centre unit of a layer: (H, W), the largest value 1.

    That is the size of the gradient of the unit, all channels summed, with respect to the pixels, averaged over
    ``images``, which are normalised (N, C, H, W); see Luo et al. 2016. ``layer`` is a module's name, by default
    that of the last map before the global pooling. The model stays as it is. Raises ValueError for a layer that is not
    there or gives no map.
    """
    clone = copy_of(model).to(images.device)
    pixels = _unit_gradient(clone, images.float(), layer).float().cpu().numpy()
    return pixels / max(pixels.max(), np.finfo(np.float32).tiny)


def _unit_gradient(model: nn.Module, images: Tensor, layer: str | None) -> Tensor:
    """Return the size of the gradient of a layer's centre unit: (H, W), summed over images and channels."""
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        _, output = run_to_map(model, images, layer)
        centre = (slice(None), slice(None), *(size // 2 for size in output.shape[2:]))
        (gradient,) = torch.autograd.grad(output[centre].sum(), images)
    return gradient.abs().sum(dim=(0, 1))


def run_to_map(model: nn.Module, images: Tensor, layer: str | None) -> tuple[Tensor, Tensor]:
    """Return the network's output for the images (N, C, H, W) and the map (N, c, h, w) of a layer on the way to it.

    ``layer`` is a module's name; None is that of :func:`last_map`. Raises ValueError for one that is not there or gives
    no map.
    """
    if layer is None:
        layer = last_map(model, tuple(images.shape[1:]))
    modules = dict(model.named_modules())
    if layer not in modules:
        raise ValueError(f"the network has no layer {layer!r}: choose one of {', '.join(filter(None, modules))}")
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        if not torch.is_tensor(output):
            return output
        maps.append(output)
        return output.clone()  # for the network to go on with, which may overwrite it

    handle = modules[layer].register_forward_hook(keep)
    try:
        output = model(images)
    finally:
        handle.remove()
    if not maps or maps[-1].ndim != images.ndim:
        raise ValueError(f"{layer!r} gives no map of the image: choose another layer")
    return output, maps[-1]


def last_map(model: nn.Module, input_size: tuple[int, ...]) -> str:
    """Return the name of the module that gives the last map before the global pooling."""
    flow = trace_dataflow(model, input_size)
    views = follow(flow)
    for call in reversed(flow.calls):
        view = views.get(call.outputs[0]) if call.outputs else None
        if view is not None and len(view.dims) == len(input_size) + 1 and max(view.lengths) > 1:
            return call.path
    raise ValueError("no module of the network gives a map of the image: name a layer")


def _make_positive(module: nn.Module) -> None:
    """Set the weights so that every path counts, none cancels or is multiplied by 0, and residual sums stay small."""
    for name, parameter in module.named_parameters(recurse=False):
        value = {"weight": 1.0}.get(name, 0.1)
        if parameter.ndim > 1:
            value = 0.1 / max(1, parameter[0].numel())
        nn.init.constant_(parameter, value)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.reset_running_stats()


class _AverageForMaximum(TorchFunctionMode):
    """Let every max pooling take the average of its window, so that all of it counts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__.startswith("adaptive_max_pool"):
            return getattr(F, func.__name__.replace("max", "avg").removesuffix("_with_indices"))(*args[:2], **kwargs)
        if func.__name__.strip("_") in ("max_pool1d", "max_pool2d", "max_pool3d"):
            return _average_pool(func(*args, **kwargs).shape, *args, **kwargs)
        return func(*args, **kwargs)


def _average_pool(
    shape: torch.Size,
    images: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    **_: bool,
) -> Tensor:
    """Return the averages over the windows of a max pooling whose output has this ``shape``."""
    count = images.ndim - 2
    kernel, padding, dilation = (
        [value] * count if isinstance(value, int) else list(value) for value in (kernel_size, padding, dilation)
    )
    stride = kernel if not stride else [stride] * count if isinstance(stride, int) else list(stride)
    pads = [
        amount for before, step in zip(padding[::-1], stride[::-1], strict=True) for amount in (before, before + step)
    ]
    weight = images.new_full((images.shape[1], 1, *kernel), 1 / math.prod(kernel))
    convolve = (F.conv1d, F.conv2d, F.conv3d)[count - 1]
    result = convolve(F.pad(images, pads), weight, None, stride, 0, dilation, images.shape[1])
    return result[tuple(slice(size) for size in shape)]  # more rows than in ceil_mode are cut off
