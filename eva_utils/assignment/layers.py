"""The clauses that the network itself must meet."""

import math

from torch import nn

from eva_utils.assignment.clause import Clause, joined
from eva_utils.assignment.network import PRODUCTS, TracedNetwork, is_maximum, is_pointwise, reads_depthwise
from eva_utils.dataflow import Constant
from eva_utils.fields import View
from eva_utils.receptive_field import format_sizes

AVERAGES = ("mean", "sum", "avg_pool1d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool1d")


def accuracy_reached(accuracy: float | None, least: float) -> Clause:
    """Compare the accuracy that was given."""
    found = "not given" if accuracy is None else f"{accuracy:.2%}"
    return Clause("test accuracy", f"at least {least:.0%}", found, "", None if accuracy is None else accuracy >= least)


def parameters(model: nn.Module, network: TracedNetwork, limit: int) -> Clause:
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
    names = joined([name for _, name in hidden.values()])
    where = f"{others:,} of them are weights that are no parameters, in {names}" if hidden else ""
    return Clause("parameters", f"under {limit:,}", f"{count:,}", where, count < limit)


def receptive_field(network: TracedNetwork, least: int) -> list[Clause]:
    """Compare the smaller side of the field, before the pooling and, for information, after it."""
    required = f"over {least}"
    if network.problem:
        names = ("receptive field before pooling", "receptive field after pooling")
        return [Clause(name, required, "cannot tell", network.problem, None) for name in names]
    ends = [network.views[value] for value in network.flow.outputs]
    view = max(ends, key=lambda view: view.sizes_before)
    before = tuple(map(min, view.sizes_before, _field_of_convolutions(network, view)))
    more = f" and {len(view.paths) - 1} more" if len(view.paths) > 1 else ""  # which eva.receptive_field names
    notes = [f"the whole map also gets in through {view.paths[0]}{more}"] if view.paths else []
    idle = [operation.module for operation, _ in network.convolutions() if network.idle_taps(operation)]
    notes += [f"not counted on: {joined(idle)} reads padding only"] if idle else []
    passed = min(before) > least and not idle
    looser = "the looser reading: counts the pooling as well"
    return [
        Clause("receptive field before pooling", required, format_sizes(before), "; ".join(notes), passed),
        Clause("receptive field after pooling", required, format_sizes(view.sizes), looser, min(view.sizes) > least),
    ]


def _field_of_convolutions(network: TracedNetwork, end: View) -> tuple[int, ...]:
    """Return the largest field of a convolution's output, which leaves out poolings of any form behind the last."""
    views = [
        network.views[operation.outputs[0]].sizes_before
        for operation, kernel in network.convolutions()
        if max(kernel) > 1
    ]
    return tuple(max(sizes) for sizes in zip(*views, strict=True)) if views else end.sizes_before


def dilated(network: TracedNetwork) -> Clause:
    """Count the convolutions whose taps lie apart and do not all but one fall into the padding."""
    found = []
    for operation, kernel in network.convolutions():
        dilation = list(operation.arguments["dilation"]) * len(kernel)
        sizes = operation.arguments["input"].shape[2:]
        reach = zip(kernel, dilation, sizes, strict=False)
        spread = any(size > 1 and 1 < gap < length for size, gap, length in reach)
        if spread and (network.problem or network.changes_places(operation)):
            found.append(operation.module)
    return Clause("dilated convolution", "at least 1", str(len(found)), joined(found), len(found) >= 1)


def separable(network: TracedNetwork, least: int) -> Clause:
    """Count the pointwise convolutions behind a depthwise one."""
    found = [op.module for op in network.operations if is_pointwise(op, network) and reads_depthwise(op, network)]
    passed = len(found) >= least or (None if network.problem else False)
    return Clause("depthwise separable convolution", f"at least {least}", str(len(found)), joined(found), passed)


def no_max_pooling(network: TracedNetwork) -> Clause:
    """Count what takes a maximum over places."""
    found = [op.module or op.name for op in network.operations if is_maximum(op, network)]
    return Clause("no max pooling", "0", str(len(found)), joined(found), not found)


def average_pooling(network: TracedNetwork) -> Clause:
    """Tell whether the whole map is averaged before the output."""
    required, name = "the map's mean at the end", "global average pooling"
    if network.problem:
        return Clause(name, required, "cannot tell", network.problem, None)
    views = [network.views[value] for value in network.flow.outputs]
    by = [operation for view in views for operation in view.pooled_by]
    where = joined([operation.module or operation.name for operation in by])
    if not by or any(None in view.pooled for view in views):
        return Clause(name, required, "no pooling", where, False)
    passed = all(operation.name in AVERAGES for operation in by)
    return Clause(name, required, "yes" if passed else "another way", where, passed)


def no_linear_layer(network: TracedNetwork) -> Clause:
    """Count the matrix products that are no convolution of 1x1."""
    found = [
        op.module
        for op in network.operations
        if op.name in PRODUCTS and len(op.inputs) == 1 and not is_pointwise(op, network)
    ]
    passed = None if network.problem and found else not found
    return Clause("no fully connected layer", "0", str(len(found)), joined(found), passed)
