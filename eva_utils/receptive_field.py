"""Receptive fields, computed from the network itself: which pixels can change a unit.

Every operation says which units of its input each unit of its output reads. Followed back to the image that is an
interval of pixels on each axis; its length is the receptive field. Padding counts as image, as is the custom, so a
field may be larger than the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from eva_utils.dataflow import Operation, trace_dataflow
from eva_utils.fields import WINDOWS, View, follow


@dataclass(frozen=True)
class LayerField:
    """What the units of one layer see, on each axis: (height, width), in pixels of the image.

    ``jump`` is the distance of neighbouring units (the effective stride, negative behind a flip), ``start`` the centre
    of the first unit's field, where the centre of the first pixel is 0. ``note`` says where paths join, where the map
    is pooled and which operations let the whole map in.
    """

    name: str
    kind: str
    output_size: tuple[int, ...]
    receptive_field: tuple[int, ...]
    jump: tuple[float, ...]
    start: tuple[float, ...]
    note: str

    @property
    def centre(self) -> tuple[float, ...]:
        """The centre of the middle unit's field, number ``size // 2`` on each axis, which is the one measured."""
        return tuple(
            first + jump * (size // 2)
            for first, jump, size in zip(self.start, self.jump, self.output_size, strict=True)
        )


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive fields of a network: a row for each layer that changes one, in the order in which they ran.

    ``before_pooling`` is the field of the last map before it is pooled to one unit, ``after_pooling`` that of the
    output; they are equal where nothing is pooled. ``global_paths`` names the operations by which the whole map gets
    in by the side: with them, every unit depends on every pixel besides.
    """

    rows: tuple[LayerField, ...]
    before_pooling: tuple[int, ...]
    after_pooling: tuple[int, ...]
    global_paths: tuple[str, ...]

    def __str__(self) -> str:
        lines = [("layer", "kind", "output", "field", "jump", "start", "")]
        for row in self.rows:
            numbers = (row.output_size, row.receptive_field, row.jump, row.start)
            lines.append((row.name, row.kind, *map(format_sizes, numbers), row.note))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join(
                text.rjust(width) if 2 <= number <= 5 else text.ljust(width)
                for number, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        total = f"receptive field {format_sizes(self.before_pooling)}"
        if self.after_pooling != self.before_pooling:
            total += f" before the global pooling, {format_sizes(self.after_pooling)} after it"
        sides = [f"the whole map also gets in through {', '.join(self.global_paths)}"] if self.global_paths else []
        return "\n".join([*aligned, total, *sides])


def format_sizes(sizes: Sequence[float]) -> str:
    """Return "7" for (7, 7) and "7x3" for (7, 3)."""
    return f"{sizes[0]:g}" if len(set(sizes)) == 1 else "x".join(f"{size:g}" for size in sizes)


def receptive_field(model: nn.Module, input_size: tuple[int, ...] = (3, 32, 32)) -> ReceptiveField:
    """Compute what each layer's units see of an image of ``input_size`` (channels, height, width).

    The model is run once, as a copy, and stays as it is. Right for ordinary, strided, dilated, grouped and transposed
    convolutions, poolings, upsampling by whole factors, and paths that join; see Araujo et al. 2019 for the
    arithmetic. Raises ValueError naming the operation for what it cannot judge.
    """
    flow = trace_dataflow(model, input_size)
    views = follow(flow)
    rows = []
    for operation in flow.operations:
        view = views.get(operation.outputs[0])
        inputs = [views[value] for value in operation.inputs]
        if view is not None and _is_layer(operation, view, inputs):
            rows.append(_row(operation, view, inputs))
    ends = [views[value] for value in flow.outputs]
    return ReceptiveField(
        tuple(rows),
        tuple(max(sizes) for sizes in zip(*(view.sizes_before for view in ends), strict=True)),
        tuple(max(sizes) for sizes in zip(*(view.sizes for view in ends), strict=True)),
        tuple(dict.fromkeys(path for view in ends for path in view.paths)),
    )


def _is_layer(operation: Operation, view: View, inputs: list[View]) -> bool:
    """Tell whether an operation deserves a row: it mixes positions, or several paths meet in it."""
    if operation.name in WINDOWS or view.joined > 1 or set(view.paths) - {p for v in inputs for p in v.paths}:
        return True
    return any(view.axes != other.axes for other in inputs) and operation.name != "slice"


def _row(operation: Operation, view: View, inputs: list[View]) -> LayerField:
    notes = []
    if view.joined > 1:
        notes.append(f"largest of {view.joined} paths")
    if any(size is not None for size in view.pooled) and all(view.pooled != other.pooled for other in inputs):
        notes.append(f"global pooling: {format_sizes(view.sizes_before)} before")
    if new := [path for path in view.paths if not any(path in other.paths for other in inputs)]:
        notes.append(f"global path: {', '.join(new)}")
    return LayerField(
        name=operation.module,
        kind=operation.kind,
        output_size=view.lengths,
        receptive_field=view.sizes,
        jump=tuple(axis.jump for axis in view.axes),
        start=tuple(axis.start for axis in view.axes),
        note="; ".join(notes),
    )
