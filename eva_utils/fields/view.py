"""What one tensor sees of the image, and the steps that all rules are made of."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from eva_utils.dataflow import Operation, Value
from eva_utils.fields.axis import Axis


@dataclass(frozen=True)
class Part:
    """A factor of a tensor's dimension: ``size`` units along a spatial ``axis``, or channels and the like (None).

    ``same`` marks a dimension that was made by repeating one unit.
    """

    size: int
    axis: int | None = None
    same: bool = False


@dataclass(frozen=True)
class View:
    """What a tensor sees: its spatial axes and where they are among its dimensions.

    A dimension is a product of parts, so that flattening a map and undoing it can be followed. ``pooled`` keeps, for
    each axis on which the map was pooled to one unit, the size of the field before that, and ``pooled_by`` the
    operations that did it. ``paths`` names the operations that let the whole map in by the side, as a gate or a
    statistic, and ``joined`` how many paths met here.
    """

    axes: tuple[Axis, ...]
    dims: tuple[tuple[Part, ...], ...]
    pooled: tuple[int | None, ...]
    pooled_by: tuple[Operation, ...] = ()
    paths: tuple[str, ...] = ()
    joined: int = 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of units on each axis."""
        sizes = {part.axis: part.size for dim in self.dims for part in dim}
        return tuple(sizes.get(axis, 1) for axis in range(len(self.axes)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The receptive field on each axis, of the unit that sees most."""
        return tuple(axis.size(units) for axis, units in zip(self.axes, self.lengths, strict=True))

    @property
    def sizes_before(self) -> tuple[int, ...]:
        """The receptive field on each axis before the map was pooled to one unit, where it was."""
        return tuple(size if old is None else old for size, old in zip(self.sizes, self.pooled, strict=True))

    def spread(self, dim: int) -> list[Part]:
        """Return the parts of a dimension that hold several units of a map."""
        return [part for part in self.dims[dim] if part.axis is not None and part.size > 1]


class Views(dict[Value, View]):
    """What the tensors see; a tensor of which that is not known is refused."""

    def __missing__(self, value: Value) -> View:
        raise ValueError("it reads a side result of another operation, which is not followed")


Rule = Callable[[Operation, Views], list[View]]


def source(operation: Operation, views: Views) -> View:
    """Return the view of the tensor that an operation works on, its first argument."""
    value = next(iter(operation.arguments.values()))
    if not isinstance(value, Value):
        raise ValueError("the image comes in as another argument than the first")
    if len(set(operation.inputs)) > 1:
        raise ValueError("the image comes in through several arguments")
    return replace(views[value], joined=1)


def path_name(operation: Operation) -> str:
    """Return the name of an operation that lets the whole map in."""
    return f"{operation.module} ({operation.kind})" if operation.module else operation.kind


def gathered(view: View, number: int, reads: Sequence[Sequence[int]], shift: int, size: int) -> View:
    """Return the view after its dimension ``number``, now of ``size`` units, was gathered from its axis."""
    (part,) = single_parts(view, [number])
    if part.axis is None:  # a sequence of channels, say
        return with_dim(view, number, as_dim(size))
    axes = list(view.axes)
    axes[part.axis] = axes[part.axis].gather(reads, shift)
    return with_dim(replace(view, axes=tuple(axes)), number, (Part(size, part.axis),))


def single_parts(view: View, numbers: Iterable[int]) -> list[Part]:
    """Return the one part of each of the dimensions; refuse flattened maps."""
    dims = [view.dims[number] or (Part(1),) for number in numbers]
    if any(len(dim) > 1 and any(part.axis is not None for part in dim) for dim in dims):
        raise ValueError("it reads along a flattened map")
    return [dim[0] if len(dim) == 1 else Part(length(dim)) for dim in dims]


def length(dim: Iterable[Part]) -> int:
    return math.prod(part.size for part in dim)


def with_dim(view: View, number: int, parts: tuple[Part, ...]) -> View:
    return replace(view, dims=(*view.dims[:number], parts, *view.dims[number + 1 :]))


def as_dim(size: int) -> tuple[Part, ...]:
    return (Part(size),) if size > 1 else ()


def per_dim(value: int | Sequence[int], count: int) -> list[int]:
    """Return one number for each dimension, as torch reads 3 or [3] for all of them."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * count if len(numbers) == 1 else numbers


def chosen_dims(operation: Operation, view: View) -> list[int]:
    """Return the dimensions that an operation runs over; all where it names none."""
    chosen = operation.arguments.get("dim")
    if chosen is None or chosen == []:
        return list(range(len(view.dims)))
    return [number % len(view.dims) for number in ([chosen] if isinstance(chosen, int) else chosen)]


def collapse(view: View, parts: Iterable[Part], operation: Operation) -> View:
    """Return the view after a sum over all units along the axes that ``parts`` belong to."""
    sizes = {part.axis: part.size for part in parts if part.axis is not None and part.size > 1}
    axes = list(view.axes)
    for axis, size in sizes.items():
        axes[axis] = axes[axis].gather([range(size)], 0)
    return pool_to_one(replace(view, axes=tuple(axes)), view, operation, set(sizes))


def pool_to_one(view: View, before: View, operation: Operation, axes: Collection[int]) -> View:
    """Return the view of a map of which one unit is left on ``axes``."""
    if not axes:
        return view
    still = tuple(axis.still() if number in axes else axis for number, axis in enumerate(view.axes))
    pooled = tuple(
        size if number in axes and old is None else old
        for number, (old, size) in enumerate(zip(before.pooled, before.sizes, strict=True))
    )
    return replace(view, axes=still, pooled=pooled, pooled_by=(*before.pooled_by, operation))


def with_paths(paths: tuple[str, ...], more: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*paths, *more]))
