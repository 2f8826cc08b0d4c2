"""The clauses of the course's assignment, checked on the network itself."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import albumentations as A
from torch import nn

from eva_utils.dataflow import Constant, Dataflow, Operation, Value, trace_dataflow
from eva_utils.fields import View, follow
from eva_utils.receptive_field import format_sizes
from eva_utils.transforms import CIFAR10_MEAN

AVERAGES = ("mean", "sum", "avg_pool1d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool1d")
MAXIMA = ("amax", "max", "maximum", "fmax", "amin", "min", "minimum", "fmin")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
KEEPS_PLACES = (
    *("clone", "permute", "transpose", "t", "view", "_unsafe_view", "hardtanh", "hardswish", "leaky_relu", "celu"),
    *("_prelu_kernel", "rrelu_with_noise", "_to_copy", "mean", "var", "std", "var_mean", "native_batch_norm"),
    *("_native_batch_norm_legit_no_training", "native_layer_norm", "native_group_norm", "unsqueeze", "expand"),
)
TIERS = {
    "standard": {"accuracy": 0.85, "parameters": 200_000, "field": 44, "separable": 1},
    "bonus": {"accuracy": 0.87, "parameters": 100_000, "field": 52, "separable": 2},
}


@dataclass(frozen=True)
class Clause:
    """One clause: what it requires, what was found and where; ``passed`` is None where nothing was given to judge."""

    name: str
    required: str
    found: str
    where: str
    passed: bool | None


@dataclass(frozen=True)
class AssignmentCheck:
    """All clauses of a tier. ``passed`` is False if one is broken, None if one could not be judged, else True."""

    tier: str
    clauses: tuple[Clause, ...]

    @property
    def passed(self) -> bool | None:
        """The verdict over all clauses."""
        verdicts = [clause.passed for clause in self.clauses]
        return False if False in verdicts else None if None in verdicts else True

    def __str__(self) -> str:
        marks = {True: "yes", False: "NO", None: "?"}
        lines = [("clause", "required", "found", "passed", "where")]
        lines += [(c.name, c.required, c.found, marks[c.passed], c.where) for c in self.clauses]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        verdict = {True: "passed", False: "not passed", None: "not passed yet: not all clauses could be judged"}
        return "\n".join([*rows, f"{self.tier} tier: {verdict[self.passed]}"])


def check_assignment(
    model: nn.Module,
    accuracy: float | None = None,
    transform: A.Compose | None = None,
    tier: Literal["standard", "bonus"] = "standard",
    *,
    input_size: tuple[int, int, int] = (3, 32, 32),
    mean: Sequence[float] = CIFAR10_MEAN,
) -> AssignmentCheck:
    """Print and return, clause by clause, whether a network meets the course's assignment.

    ``accuracy`` is on the test images, 0 to 1; ``transform`` is the training policy; without them their clauses stay
    open. Layers are recognised by what they do to the image of ``input_size``, not by their names, and count
    only where the output depends on them. ``mean`` is the dataset's, which the hole is filled with. What a network
    computes with its numbers is not judged: a layer multiplied by 0, or a maximum written as sums and ReLUs, goes
    unseen. Raises ValueError for another tier, an accuracy that is no share or a policy of another library.
    """
    if tier not in TIERS:
        raise ValueError(f"tier={tier!r}: choose one of {', '.join(TIERS)}")
    if accuracy is not None and not (isinstance(accuracy, int | float) and 0 <= accuracy <= 1):
        raise ValueError(f"accuracy={accuracy!r}: expected a share from 0 to 1, such as 0.85")
    if transform is not None and not isinstance(transform, A.BaseCompose):
        raise ValueError(f"transform is a {type(transform).__name__}: expected an albumentations.Compose")
    network = _Network(model, input_size)
    needs = TIERS[tier]
    clauses = [
        _accuracy(accuracy, needs["accuracy"]),
        _parameters(model, network, needs["parameters"]),
        *_receptive_field(network, needs["field"]),
        _dilated(network),
        _separable(network, needs["separable"]),
        _no_max_pooling(network),
        _average_pooling(network),
        *([_no_linear_layer(network)] if tier == "bonus" else []),
        *_augmentations(transform, mean, grey=tier == "bonus"),
    ]
    check = AssignmentCheck(tier, tuple(clauses))
    print(check)
    return check


class _Network:
    """The operations that the output depends on, and what their tensors see."""

    def __init__(self, model: nn.Module, input_size: tuple[int, ...]) -> None:
        self.flow: Dataflow = trace_dataflow(model, input_size)
        self.views: dict[Value, View] = {}
        self.problem = ""
        try:
            self.views = follow(self.flow)
        except ValueError as error:
            self.problem = str(error)
        needed = {value.op for value in self.flow.outputs}
        for operation in reversed(self.flow.operations):
            if operation.index in needed:
                needed |= {value.op for value in operation.inputs}
        self.operations = [operation for operation in self.flow.operations if operation.index in needed]

    def convolutions(self) -> Iterator[tuple[Operation, tuple[int, ...]]]:
        """Give each convolution of the map by fixed weights, with its kernel's size."""
        for operation in self.operations:
            weight = operation.arguments.get("weight")
            if operation.name == "convolution" and isinstance(weight, Constant):
                yield operation, weight.shape[2:]

    def changes_places(self, operation: Operation) -> bool:
        """Tell whether an operation looks at more than one place, as far as that can be told."""
        after = self.views.get(operation.outputs[0])
        return after is None or any(self.views[value].axes != after.axes for value in operation.inputs)

    def idle_taps(self, operation: Operation) -> bool:
        """Tell whether all taps of a convolution but the central ones lie in the padding."""
        sizes = operation.arguments["input"].shape[2:]
        kernel, dilation = operation.arguments["weight"].shape[2:], operation.arguments["dilation"]
        gaps = zip(kernel, list(dilation) * len(kernel), sizes, strict=False)
        return max(kernel) > 1 and all(gap >= length for size, gap, length in gaps if size > 1)


def _accuracy(accuracy: float | None, least: float) -> Clause:
    found = "not given" if accuracy is None else f"{accuracy:.2%}"
    return Clause("test accuracy", f"at least {least:.0%}", found, "", None if accuracy is None else accuracy >= least)


def _parameters(model: nn.Module, network: _Network, limit: int) -> Clause:
    """Count the parameters, and the weights that are read as such but are none."""
    hidden = {
        value.memory: (math.prod(value.shape), operation.module)
        for operation in network.operations
        for value in operation.arguments.values()
        if operation.name in ("convolution", *PRODUCTS)
        and isinstance(value, Constant)
        and not value.learned
        and len(value.shape) > 1
    }
    others = sum(size for size, _ in hidden.values())
    count = sum(parameter.numel() for parameter in model.parameters()) + others
    names = _names([name for _, name in hidden.values()])
    where = f"{others:,} of them are weights that are no parameters, in {names}" if hidden else ""
    return Clause("parameters", f"under {limit:,}", f"{count:,}", where, count < limit)


def _receptive_field(network: _Network, least: int) -> list[Clause]:
    required = f"over {least}"
    if network.problem:
        names = ("receptive field before pooling", "receptive field after pooling")
        return [Clause(name, required, "cannot tell", network.problem, None) for name in names]
    ends = [network.views[value] for value in network.flow.outputs]
    view = max(ends, key=lambda view: view.sizes_before)
    before = tuple(map(min, view.sizes_before, _field_of_convolutions(network, view)))
    notes = [f"the whole map also gets in through {', '.join(view.paths)}"] if view.paths else []
    idle = [operation.module for operation, _ in network.convolutions() if network.idle_taps(operation)]
    notes += [f"not counted on: {_names(idle)} reads padding only"] if idle else []
    passed = min(before) > least and not idle
    looser = "the looser reading: counts the pooling as well"
    return [
        Clause("receptive field before pooling", required, format_sizes(before), "; ".join(notes), passed),
        Clause("receptive field after pooling", required, format_sizes(view.sizes), looser, min(view.sizes) > least),
    ]


def _field_of_convolutions(network: _Network, end: View) -> tuple[int, ...]:
    """Return the largest field of a convolution's output, which leaves out poolings of any form behind the last."""
    views = [
        network.views[operation.outputs[0]].sizes_before
        for operation, kernel in network.convolutions()
        if max(kernel) > 1
    ]
    return tuple(max(sizes) for sizes in zip(*views, strict=True)) if views else end.sizes_before


def _dilated(network: _Network) -> Clause:
    found = []
    for operation, kernel in network.convolutions():
        dilation = list(operation.arguments["dilation"]) * len(kernel)
        sizes = operation.arguments["input"].shape[2:]
        reach = zip(kernel, dilation, sizes, strict=False)
        spread = any(size > 1 and 1 < gap < length for size, gap, length in reach)
        if spread and (network.problem or network.changes_places(operation)):
            found.append(operation.module)
    return Clause("dilated convolution", "at least 1", str(len(found)), _names(found), len(found) >= 1)


def _separable(network: _Network, least: int) -> Clause:
    found = [op.module for op in network.operations if _is_pointwise(op, network) and _reads_depthwise(op, network)]
    passed = len(found) >= least or (None if network.problem else False)
    return Clause("depthwise separable convolution", f"at least {least}", str(len(found)), _names(found), passed)


def _is_pointwise(operation: Operation, network: _Network) -> bool:
    """Tell whether an operation mixes the channels of each place by itself, with fixed weights."""
    if len(operation.inputs) != 1:
        return False
    if operation.name == "convolution":
        arguments = operation.arguments
        fixed = isinstance(arguments["weight"], Constant) and not arguments["transposed"]
        return fixed and set(arguments["weight"].shape[2:]) == {1} and arguments["groups"] == 1
    if operation.name not in PRODUCTS or network.changes_places(operation):
        return False
    return any(axis.step > 0 for axis in network.views[operation.inputs[0]].axes)


def _reads_depthwise(operation: Operation, network: _Network) -> bool:
    """Tell whether all that an operation reads is one depthwise convolution, normalised and activated at most."""
    sources, waiting = set(), list(operation.inputs)
    while waiting:
        value = waiting.pop()
        other = network.flow.operations[value.op] if value.op >= 0 else None
        if other is not None and (other.pointwise or other.name in KEEPS_PLACES) and not _mixes(other, network):
            waiting += other.inputs
        else:
            sources.add(other)
    return len(sources) == 1 and _is_depthwise(sources.pop(), network)


def _mixes(operation: Operation, network: _Network) -> bool:
    return not network.problem and network.changes_places(operation)


def _is_depthwise(operation: Operation | None, network: _Network) -> bool:
    if operation is None or operation.name != "convolution" or not isinstance(operation.arguments["weight"], Constant):
        return False
    arguments = operation.arguments
    own = arguments["groups"] == arguments["input"].shape[1] > 1 and not arguments["transposed"]
    return own and max(arguments["weight"].shape[2:]) > 1 and not network.idle_taps(operation)


def _no_max_pooling(network: _Network) -> Clause:
    found = [op.module or op.name for op in network.operations if _is_maximum(op, network)]
    return Clause("no max pooling", "0", str(len(found)), _names(found), not found)


def _is_maximum(operation: Operation, network: _Network) -> bool:
    """Tell whether an operation takes the maximum over places of the map."""
    return ("max_pool" in operation.name or operation.name in MAXIMA) and network.changes_places(operation)


def _average_pooling(network: _Network) -> Clause:
    required, name = "the map's mean at the end", "global average pooling"
    if network.problem:
        return Clause(name, required, "cannot tell", network.problem, None)
    views = [network.views[value] for value in network.flow.outputs]
    by = [operation for view in views for operation in view.pooled_by]
    where = _names([operation.module or operation.name for operation in by])
    if not by or any(None in view.pooled for view in views):
        return Clause(name, required, "no pooling", where, False)
    passed = all(operation.name in AVERAGES for operation in by)
    return Clause(name, required, "yes" if passed else "another way", where, passed)


def _no_linear_layer(network: _Network) -> Clause:
    found = [
        op.module
        for op in network.operations
        if op.name in PRODUCTS and len(op.inputs) == 1 and not _is_pointwise(op, network)
    ]
    passed = None if network.problem and found else not found
    return Clause("no fully connected layer", "0", str(len(found)), _names(found), passed)


def _augmentations(transform: A.Compose | None, mean: Sequence[float], *, grey: bool) -> list[Clause]:
    steps = None if transform is None else list(_steps(transform))
    normalized = [number for number, step in enumerate(steps or []) if isinstance(step, A.Normalize)]
    early = (steps or [])[: normalized[0]] if normalized else steps or []
    wanted = [
        ("horizontal flip", "p over 0", [step for step in steps or [] if isinstance(step, A.HorizontalFlip | A.D4)]),
        ("shift, scale, rotate", "all three", _shifts_scales_rotates(steps or [])),
        ("coarse dropout", "one 16x16 hole of the mean", [s for s in steps or [] if _is_hole(s, mean, s in early)]),
    ]
    wanted += [("to grey", "p over 0", [step for step in steps or [] if isinstance(step, A.ToGray)])] if grey else []
    clauses = []
    for name, required, found in wanted:
        text = ", ".join(f"{type(step).__name__}, p {step.p:g}" for step in found) or "none"
        if steps is None:
            clauses.append(Clause(name, required, "no policy given", "", None))
        else:
            clauses.append(Clause(name, required, text, "", bool(found)))
    return clauses


def _steps(transform: Any) -> Iterator[Any]:
    """Give the single steps of a policy that are ever taken, also of policies within it."""
    if transform.p <= 0 or getattr(transform, "n", 1) == 0:
        return
    if not isinstance(transform, A.BaseCompose):
        yield transform
        return
    for step in transform.transforms:
        yield from _steps(step)


def _shifts_scales_rotates(steps: list[Any]) -> list[Any]:
    """Return the steps that together shift, scale and rotate, or none if one of these is missing."""
    does: dict[str, list[Any]] = {"shift": [], "scale": [], "rotate": []}
    for step in steps:
        if isinstance(step, A.Affine):  # ShiftScaleRotate is one, too
            shift = step.translate_percent or step.translate_px or {}
            does["shift"] += [step] * any(tuple(reach) != (0, 0) for reach in shift.values())
            does["scale"] += [step] * any(tuple(reach) != (1, 1) for reach in step.scale.values())
            does["rotate"] += [step] * (tuple(step.rotate) != (0, 0))
        does["rotate"] += [step] * isinstance(step, A.Rotate | A.SafeRotate)
        does["scale"] += [step] * isinstance(step, A.RandomScale)
    if not all(does.values()):
        return []
    return [step for step in steps if any(step is other for found in does.values() for other in found)]


def _is_hole(step: Any, mean: Sequence[float], early: bool) -> bool:
    """Tell whether a step cuts one hole of the mean, which is 0 once the image is normalised."""
    if not isinstance(step, A.CoarseDropout) or isinstance(step.fill, str):
        return False
    sides = (*step.hole_height_range, *step.hole_width_range)
    one = tuple(step.num_holes_range) == (1, 1) and all(side in (16, 0.5) for side in sides)
    fill = step.fill if isinstance(step.fill, tuple | list) else [step.fill] * len(mean)
    wanted = [255 * level if early else 0 for level in mean]
    close = [abs(value - level) <= (1 if early else 0.01) for value, level in zip(fill, wanted, strict=False)]
    return one and all(close)


def _names(paths: list[str]) -> str:
    return ", ".join(dict.fromkeys(path or "the network" for path in paths))
