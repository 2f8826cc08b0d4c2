"""The clauses of the course's assignment, checked on the network itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import albumentations as A
from torch import nn

from eva_utils.dataflow import Constant, Dataflow, Operation, Value, trace_dataflow
from eva_utils.fields import View, follow
from eva_utils.receptive_field import format_sizes
from eva_utils.transforms import CIFAR10_MEAN

AVERAGES = ("mean", "avg_pool1d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool1d", "_adaptive_avg_pool3d")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
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
) -> AssignmentCheck:
    """Print and return, clause by clause, whether a network meets the course's assignment.

    ``accuracy`` is on the test images, 0 to 1; ``transform`` is the training policy; without them their clauses stay
    open. Layers are recognised by what they do to the image of ``input_size``, not by their names, and count
    only where the output depends on them. Raises ValueError for another tier or an accuracy that is no share.
    """
    if tier not in TIERS:
        raise ValueError(f"tier={tier!r}: choose one of {', '.join(TIERS)}")
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy={accuracy}: expected a share from 0 to 1, such as 0.85")
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
        *_augmentations(transform, grey=tier == "bonus"),
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

    def chain(self, value: Value) -> Iterator[Operation]:
        """Go back from a tensor as long as each operation reads a single tensor."""
        while value.op >= 0:
            operation = self.flow.operations[value.op]
            yield operation
            if len(set(operation.inputs)) != 1:
                return
            value = operation.inputs[0]


def _accuracy(accuracy: float | None, least: float) -> Clause:
    found = "not given" if accuracy is None else f"{accuracy:.2%}"
    return Clause("test accuracy", f"at least {least:.0%}", found, "", None if accuracy is None else accuracy >= least)


def _parameters(model: nn.Module, network: _Network, limit: int) -> Clause:
    count = sum(parameter.numel() for parameter in model.parameters())
    hidden = [
        operation.module
        for operation in network.operations
        for value in operation.arguments.values()
        if operation.name in ("convolution", *PRODUCTS)
        and isinstance(value, Constant)
        and value.kind in ("buffer", "attribute")
        and len(value.shape) > 1
    ]
    where = f"and weights that are no parameters in {_names(hidden)}" if hidden else ""
    return Clause("parameters", f"under {limit:,}", f"{count:,}", where, count < limit and not hidden)


def _receptive_field(network: _Network, least: int) -> list[Clause]:
    required = f"over {least}"
    if network.problem:
        names = ("receptive field before pooling", "receptive field after pooling")
        return [Clause(name, required, "cannot tell", network.problem, None) for name in names]
    view = max((network.views[value] for value in network.flow.outputs), key=lambda view: view.before or view.sizes)
    before, after = view.before or view.sizes, view.sizes
    where = f"the whole map also gets in through {', '.join(view.paths)}" if view.paths else ""
    looser = "the looser reading: counts the pooling as well"
    return [
        Clause("receptive field before pooling", required, format_sizes(before), where, min(before) > least),
        Clause("receptive field after pooling", required, format_sizes(after), looser, min(after) > least),
    ]


def _dilated(network: _Network) -> Clause:
    found = []
    for operation, kernel in network.convolutions():
        dilation = list(operation.arguments["dilation"]) * len(kernel)
        sizes = operation.arguments["input"].shape[2:]
        reach = zip(kernel, dilation, sizes, strict=False)
        if any(size > 1 and gap > 1 and gap < length for size, gap, length in reach):
            found.append(operation.module)
    return Clause("dilated convolution", "at least 1", str(len(found)), _names(found), len(found) >= 1)


def _separable(network: _Network, least: int) -> Clause:
    found = [op.module for op in network.operations if _is_pointwise(op, network) and _reads_depthwise(op, network)]
    passed = len(found) >= least
    return Clause("depthwise separable convolution", f"at least {least}", str(len(found)), _names(found), passed)


def _is_pointwise(operation: Operation, network: _Network) -> bool:
    """Tell whether an operation mixes the channels of each place by itself."""
    if operation.name == "convolution":
        weight = operation.arguments["weight"]
        return isinstance(weight, Constant) and set(weight.shape[2:]) == {1} and operation.arguments["groups"] == 1
    if operation.name not in ("mm", "addmm") or len(operation.inputs) != 1 or network.problem:
        return False
    before, after = network.views[operation.inputs[0]], network.views[operation.outputs[0]]
    return before.axes == after.axes and any(axis.step > 0 for axis in before.axes)


def _reads_depthwise(operation: Operation, network: _Network) -> bool:
    """Tell whether all that an operation reads is a depthwise convolution, normalised and activated at most."""
    between = ("clone", "permute", "transpose", "view", "_unsafe_view", "hardtanh", "hardswish", "leaky_relu")
    between += ("_prelu_kernel", "celu", "rrelu_with_noise")
    for other in network.chain(operation.inputs[0]):
        if other.name == "convolution":
            weight, groups = other.arguments["weight"], other.arguments["groups"]
            plain = isinstance(weight, Constant) and not other.arguments["transposed"]
            return plain and groups == other.arguments["input"].shape[1] > 1 and max(weight.shape[2:]) > 1
        if not (other.pointwise or other.name in between or "norm" in other.name) or len(set(other.inputs)) != 1:
            return False
    return False


def _no_max_pooling(network: _Network) -> Clause:
    found = [op.module or op.name for op in network.operations if _is_maximum(op, network)]
    return Clause("no max pooling", "0", str(len(found)), _names(found), not found)


def _is_maximum(operation: Operation, network: _Network) -> bool:
    """Tell whether an operation takes the maximum over places of the map, in whatever way."""
    if "max_pool" in operation.name:
        return True
    if operation.name not in ("amax", "max", "maximum", "fmax") or network.problem:
        return operation.name in ("amax", "max", "maximum", "fmax")
    inputs = [network.views[value] for value in operation.inputs]
    return any(view.axes != network.views[operation.outputs[0]].axes for view in inputs)


def _average_pooling(network: _Network) -> Clause:
    required, name = "the map's mean at the end", "global average pooling"
    if network.problem:
        return Clause(name, required, "cannot tell", network.problem, None)
    views = [network.views[value] for value in network.flow.outputs]
    pooled = [view.pooled_by for view in views if view.pooled_by]
    if not pooled:
        return Clause(name, required, "no pooling", "", False)
    means = {str(op.module): op for op in network.operations if op.name in AVERAGES}
    found = [by for by in pooled if by.split(" (")[0] in means or by in AVERAGES]
    return Clause(name, required, "yes" if found else "another way", _names(found or pooled), bool(found))


def _no_linear_layer(network: _Network) -> Clause:
    found = [
        op.module
        for op in network.operations
        if op.name in PRODUCTS and len(op.inputs) == 1 and not _is_pointwise(op, network)
    ]
    return Clause("no fully connected layer", "0", str(len(found)), _names(found), not found)


def _augmentations(transform: A.Compose | None, *, grey: bool) -> list[Clause]:
    steps = None if transform is None else list(_steps(transform))
    mean = next((step.mean for step in steps or [] if isinstance(step, A.Normalize)), CIFAR10_MEAN)
    wanted: list[tuple[str, str, Callable[[Any], bool]]] = [
        ("horizontal flip", "p over 0", lambda step: isinstance(step, A.HorizontalFlip)),
        ("shift, scale, rotate", "all three", _shifts_scales_rotates),
        ("coarse dropout", "one 16x16 hole of the mean", lambda step: _is_hole(step, mean)),
    ]
    wanted += [("to grey", "p over 0", lambda step: isinstance(step, A.ToGray))] if grey else []
    clauses = []
    for name, required, matches in wanted:
        if steps is None:
            clauses.append(Clause(name, required, "no policy given", "", None))
            continue
        found = [step for step in steps if matches(step) and step.p > 0]
        text = f"{type(found[0]).__name__}, p {found[0].p:g}" if found else "none"
        clauses.append(Clause(name, required, text, "", bool(found)))
    return clauses


def _steps(transform: Any) -> Iterator[Any]:
    """Give the single steps of a policy, also of policies within it that are ever taken."""
    if not isinstance(transform, A.BaseCompose):
        yield transform
    elif transform.p > 0:
        for step in transform.transforms:
            yield from _steps(step)


def _shifts_scales_rotates(step: Any) -> bool:
    if not isinstance(step, A.Affine):  # ShiftScaleRotate is one, too
        return False
    shift = step.translate_percent or step.translate_px or {}
    moves = any(tuple(reach) != (0, 0) for reach in shift.values())
    scales = any(tuple(reach) != (1, 1) for reach in step.scale.values())
    return moves and scales and tuple(step.rotate) != (0, 0)


def _is_hole(step: Any, mean: tuple[float, ...]) -> bool:
    if not isinstance(step, A.CoarseDropout):
        return False
    sides = (*step.hole_height_range, *step.hole_width_range)
    one = tuple(step.num_holes_range) == (1, 1) and all(side in (16, 0.5) for side in sides)
    fill = step.fill if isinstance(step.fill, tuple | list) else [step.fill] * len(mean)
    if isinstance(step.fill, str):
        return False
    return one and all(abs(value - 255 * level) <= 1 for value, level in zip(fill, mean, strict=False))


def _names(paths: list[str]) -> str:
    return ", ".join(dict.fromkeys(path or "the network" for path in paths))
