"""Rules for operations whose units read windows of units: convolutions, poolings, upsamplings."""

import math
from collections.abc import Iterable
from fractions import Fraction

from eva_utils.dataflow import Operation
from eva_utils.fields.view import View, Views, as_dim, gathered, length, per_dim, pool_to_one, source, with_dim


def convolution(operation: Operation, views: Views) -> list[View]:
    args = operation.arguments
    view, kernel = source(operation, views), args["weight"].shape[2:]
    count = len(kernel)
    dims = range(len(view.dims) - count, len(view.dims))
    stride, padding, dilation = (per_dim(args[name], count) for name in ("stride", "padding", "dilation"))
    if view.spread(1):
        raise ValueError("its channels are a map")
    for number, size, step, pad, gap in zip(dims, kernel, stride, padding, dilation, strict=True):
        if args["transposed"]:
            taps = [
                [(unit + pad - gap * k) // step for k in range(size) if (unit + pad - gap * k) % step == 0]
                for unit in range(step)
            ]
            shift = 1
        else:
            taps, shift = [[gap * k - pad for k in range(size)]], step
        view = gathered(view, number, taps, shift, operation.outputs[0].shape[number])
    return [with_dim(view, 1, as_dim(operation.outputs[0].shape[1]))]


def pool(operation: Operation, views: Views) -> list[View]:
    args, view = operation.arguments, source(operation, views)
    count = int(operation.name.split("pool")[1][0])
    dims = range(len(view.dims) - count, len(view.dims))
    kernel = per_dim(args["kernel_size"], count)
    stride = per_dim(args.get("stride") or kernel, count)
    padding, dilation = per_dim(args.get("padding", 0), count), per_dim(args.get("dilation", 1), count)
    sizes, before = operation.outputs[0].shape, view
    for number, size, step, pad, gap in zip(dims, kernel, stride, padding, dilation, strict=True):
        view = gathered(view, number, [[gap * k - pad for k in range(size)]], step, sizes[number])
    return [_to_one(view, before, operation, dims)] * len(operation.outputs)


def adaptive_pool(operation: Operation, views: Views) -> list[View]:
    view = before = source(operation, views)
    sizes = operation.arguments["output_size"]
    dims = range(len(view.dims) - len(sizes), len(view.dims))
    for number, size in zip(dims, sizes, strict=True):
        units = length(view.dims[number])
        reads = [range(unit * units // size, -(-(unit + 1) * units // size)) for unit in range(size)]
        view = gathered(view, number, reads, units, size)
    return [_to_one(view, before, operation, dims)] * len(operation.outputs)


def _to_one(view: View, before: View, operation: Operation, dims: Iterable[int]) -> View:
    """Return the view after a pooling, which may have left one unit of a map."""
    axes = {part.axis for number in dims for part in before.spread(number) if operation.outputs[0].shape[number] == 1}
    return pool_to_one(view, before, operation, axes)


def upsample(operation: Operation, views: Views) -> list[View]:
    view = source(operation, views)
    if operation.arguments.get("align_corners"):
        raise ValueError("with align_corners each unit is read at a place of its own")
    scales = [scale for name, scale in operation.arguments.items() if name.startswith("scale") and scale is not None]
    if any(abs(scale - round(scale)) > 1e-9 for scale in scales if isinstance(scale, float)):
        raise ValueError("only upsampling by a whole factor can be judged")
    taps = {"nearest": (0, 0), "linear": (0, 1), "cubic": (-1, 2)}
    low, high = next(taps[kind] for kind in ("nearest", "cubic", "linear") if kind in operation.name)

    def reads(phase: int, factor: int) -> list[int]:
        if not high:
            return [phase // factor]
        place = Fraction(2 * phase + 1 - factor, 2 * factor)  # in units of the input, the first one's centre at 0
        unit = math.floor(place)
        return [unit] if place == unit else list(range(unit + low, unit + high + 1))

    shape = operation.outputs[0].shape
    for number in range(2, len(shape)):
        factor, rest = divmod(shape[number], length(view.dims[number]))
        if rest:
            raise ValueError("only upsampling by a whole factor can be judged")
        view = gathered(view, number, [reads(phase, factor) for phase in range(factor)], 1, shape[number])
    return [view]


def pixel_shuffle(operation: Operation, views: Views) -> list[View]:
    view, shape = source(operation, views), operation.outputs[0].shape
    up = operation.name == "pixel_shuffle"
    factor = operation.arguments["upscale_factor" if up else "downscale_factor"]
    for number in (2, 3):
        reads, shift = ([[0]] * factor, 1) if up else ([list(range(factor))], factor)
        view = gathered(view, number, reads, shift, shape[number])
    return [with_dim(view, 1, as_dim(shape[1]))]
