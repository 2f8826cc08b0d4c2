"""Rules for operations whose elements come from single elements: pointwise, joining, or only moving them about."""

import functools
import math
from dataclasses import replace

from eva_utils.dataflow import Operation
from eva_utils.fields.axis import Axis
from eva_utils.fields.view import (
    Part,
    View,
    Views,
    as_dim,
    chosen_dims,
    gathered,
    length,
    path_name,
    single_parts,
    source,
    with_dim,
)


def pointwise(operation: Operation, views: Views) -> list[View]:
    """Elements of several tensors, broadcast to one shape."""
    inputs = [views[value] for value in dict.fromkeys(operation.inputs)]
    return [join(operation, inputs, operation.outputs[0].shape)] * len(operation.outputs)


def join(operation: Operation, inputs: list[View], shape: tuple[int, ...]) -> View:
    """Return what units see that depend on a unit of each input, broadcast to ``shape``."""
    inputs = [_aligned(view, shape) for view in inputs]
    axes, pooled, local = [], [], []
    paths = [path for view in inputs for path in view.paths]
    for number in range(len(inputs[0].axes)):
        moving = [view for view in inputs if view.axes[number].step != 0] or inputs
        still = [view for view in inputs if not any(view is other for other in moving)]
        paths += [path_name((*view.pooled_by, operation)[0]) for view in still]
        local += [view for view in moving if not any(view is other for other in local)]
        met = [view.axes[number] for view in moving]
        if len({axis.jump for axis in met}) > 1 and all(view.lengths[number] == 1 for view in moving):
            met = [axis.still() for axis in met]  # a single unit has no neighbours to be apart from
        axes.append(functools.reduce(Axis.join, met))
        gone = not axes[-1].step and any(view.pooled[number] is not None for view in inputs)
        pooled.append(max(view.sizes_before[number] for view in inputs) if gone else None)
    by = [other for view in inputs for other in view.pooled_by] if any(size is not None for size in pooled) else []
    return View(
        axes=tuple(axes),
        dims=tuple(_common([view.dims[n] for view in inputs], size) for n, size in enumerate(shape)),
        pooled=tuple(pooled),
        pooled_by=tuple(dict.fromkeys(by)),
        paths=tuple(dict.fromkeys(paths)),
        joined=len(local) if any(view.axes != local[0].axes for view in local) else 1,
    )


def _aligned(view: View, shape: tuple[int, ...]) -> View:
    """Return the view with as many dimensions as ``shape``; an axis of one unit that is spread stands still."""
    dims = ((),) * (len(shape) - len(view.dims)) + view.dims
    axes = list(view.axes)
    for dim, size in zip(dims, shape, strict=True):
        if length(dim) < size and dim and dim[0].axis is not None:
            axes[dim[0].axis] = axes[dim[0].axis].still()
    return replace(view, axes=tuple(axes), dims=dims, joined=1)


def _common(dims: list[tuple[Part, ...]], size: int) -> tuple[Part, ...]:
    """Return the layout of a dimension of ``size`` in which tensors meet; channels may be cut in several ways."""
    full = [dim for dim in dims if length(dim) == size]
    full = [dim for dim in full if not any(part.same for part in dim)] or full
    cores = [tuple(part for part in dim if part.size > 1) for dim in full]
    maps = [core for core in cores if any(part.axis is not None for part in core)]
    if maps and any(core != maps[0] for core in cores):
        raise ValueError("the maps that meet are laid out in different ways")
    axes = [part.axis for dim in dims for part in dim if part.axis is not None]
    if full and (size > 1 or not axes):
        return full[0]
    return (Part(size, axes[0]),) if axes else (Part(size, same=True),) if size > 1 else ()


def concatenate(operation: Operation, views: Views) -> list[View]:
    shape = operation.outputs[0].shape
    number = operation.arguments.get("dim", 0) % len(shape)
    inputs = [views[value] for value in dict.fromkeys(operation.inputs)]
    if any(view.spread(number) for view in inputs):
        raise ValueError("it puts maps beside each other")
    level = [with_dim(view, number, as_dim(shape[number])) for view in inputs]
    return [replace(join(operation, level, shape), joined=len(inputs))]


def same(operation: Operation, views: Views) -> list[View]:
    return [source(operation, views)]


def reshape(operation: Operation, views: Views) -> list[View]:
    """Lay the parts of all dimensions out anew; channels can be cut, maps cannot."""
    view, shape = source(operation, views), operation.outputs[0].shape
    if math.prod(shape) != math.prod(map(length, view.dims)):
        raise ValueError("it repeats or leaves out elements")
    if operation.name == "as_strided" and any(view.spread(number) for number in range(len(view.dims))):
        raise ValueError("it goes through the memory of a map in its own way")
    return [replace(view, dims=_cut([part for dim in view.dims for part in dim], shape))]


def _cut(parts: list[Part], shape: tuple[int, ...]) -> tuple[tuple[Part, ...], ...]:
    """Deal the parts out to dimensions of the sizes ``shape``, from the last to the first."""
    waiting, dims = _merged(parts), []
    for size in reversed(shape):
        dim: list[Part] = []
        if size == 1 and waiting and waiting[-1].size == 1:
            dim.append(waiting.pop())
        while length(dim) < size:
            part = waiting.pop()
            needed, rest = divmod(size, length(dim))
            if rest or (part.size > needed and (part.axis is not None or part.size % needed)):
                raise ValueError("it cuts a map into pieces")
            if part.size > needed:
                waiting.append(Part(part.size // needed))
                part = Part(needed)
            dim.insert(0, part)
        dims.insert(0, tuple(dim))
    return ((*waiting, *dims[0]), *dims[1:]) if dims else ()  # what waits still is of size 1


def _merged(parts: list[Part]) -> list[Part]:
    """Return the parts with neighbouring channels in one."""
    merged: list[Part] = []
    for part in parts:
        if merged and part.axis is None and merged[-1].axis is None:
            part = Part(merged.pop().size * part.size)
        merged.append(part)
    return merged


def permute(operation: Operation, views: Views) -> list[View]:
    view = source(operation, views)
    return [replace(view, dims=tuple(view.dims[number] for number in operation.arguments["dims"]))]


def transpose(operation: Operation, views: Views) -> list[View]:
    view = source(operation, views)
    dims = list(view.dims)
    a, b = operation.arguments.get("dim0", 0), operation.arguments.get("dim1", 1)
    dims[a], dims[b] = dims[b], dims[a]
    return [replace(view, dims=tuple(dims))]


def unsqueeze(operation: Operation, views: Views) -> list[View]:
    view = source(operation, views)
    number = operation.arguments["dim"] % (len(view.dims) + 1)
    return [replace(view, dims=(*view.dims[:number], (), *view.dims[number:]))]


def squeeze(operation: Operation, views: Views) -> list[View]:
    view = source(operation, views)
    chosen = chosen_dims(operation, view) if "dim" in operation.arguments else range(len(view.dims))
    gone = {number for number in chosen if length(view.dims[number]) == 1}
    return [replace(view, dims=tuple(dim for number, dim in enumerate(view.dims) if number not in gone))]


def expand(operation: Operation, views: Views) -> list[View]:
    return [join(operation, [source(operation, views)], operation.outputs[0].shape)]


def stack(operation: Operation, views: Views) -> list[View]:
    """Put tensors beside each other in a new dimension."""
    shape = operation.outputs[0].shape
    number = operation.arguments.get("dim", 0) % len(shape)
    inputs = [views[value] for value in dict.fromkeys(operation.inputs)]
    level = [replace(view, dims=(*view.dims[:number], as_dim(shape[number]), *view.dims[number:])) for view in inputs]
    return [join(operation, level, shape)]


def repeat(operation: Operation, views: Views) -> list[View]:
    """Repeat channels; repeated maps are refused."""
    view, shape = source(operation, views), operation.outputs[0].shape
    dims = ((),) * (len(shape) - len(view.dims)) + view.dims
    view = replace(view, dims=dims)
    for number, size in enumerate(shape):
        if size != length(dims[number]):
            if view.spread(number):
                raise ValueError("it puts maps beside each other")
            view = with_dim(view, number, as_dim(size))
    return [view]


def flip(operation: Operation, views: Views) -> list[View]:
    view = source(operation, views)
    axes = list(view.axes)
    for part in single_parts(view, operation.arguments["dims"]):
        if part.axis is not None:
            axes[part.axis] = axes[part.axis].flipped(part.size)
    return [replace(view, axes=tuple(axes))]


def split(operation: Operation, views: Views) -> list[View]:
    view = source(operation, views)
    number = operation.arguments.get("dim", -1 if operation.name == "glu" else 0) % len(view.dims)
    if view.spread(number):
        raise ValueError("it cuts a map into pieces")
    results = []
    for value in operation.outputs:
        kept = (as_dim(value.shape[number]),) if len(value.shape) == len(view.dims) else ()
        results.append(replace(view, dims=(*view.dims[:number], *kept, *view.dims[number + 1 :])))
    return results


def slice(operation: Operation, views: Views) -> list[View]:
    view = source(operation, views)
    number = operation.arguments.get("dim", 0) % len(view.dims)
    size = operation.outputs[0].shape[number]
    if size == length(view.dims[number]):
        return [view]
    if not view.spread(number):
        return [with_dim(view, number, as_dim(size))]
    start = operation.arguments.get("start") or 0
    (part,) = single_parts(view, [number])
    start += part.size if start < 0 else 0
    return [gathered(view, number, [[start]], operation.arguments.get("step", 1), size)]


def pad(operation: Operation, views: Views) -> list[View]:
    view = source(operation, views)
    pads = operation.arguments.get("pad") or operation.arguments["padding"]
    for number, left in enumerate(pads[::2]):
        dim = len(view.dims) - 1 - number
        size = operation.outputs[0].shape[dim]
        if view.dims[dim] and view.dims[dim][0].axis is not None and (left or pads[2 * number + 1]):
            single_parts(view, [dim])
            view = gathered(view, dim, [[-left]], 1, size)
        elif not view.spread(dim):
            view = with_dim(view, dim, as_dim(size))
    return [view]
