"""A network as the assignment reads it: what its operations do to the image, whatever they are called."""

from collections.abc import Iterator

from torch import nn

from eva_utils.dataflow import Constant, Dataflow, Operation, Value, trace_dataflow
from eva_utils.fields import View, follow

MAXIMA = ("amax", "max", "maximum", "fmax", "amin", "min", "minimum", "fmin")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
KEEPS_PLACES = (
    *("clone", "permute", "transpose", "t", "view", "_unsafe_view", "hardtanh", "hardswish", "leaky_relu", "celu"),
    *("_prelu_kernel", "rrelu_with_noise", "_to_copy", "mean", "var", "std", "var_mean", "native_batch_norm"),
    *("_native_batch_norm_legit_no_training", "native_layer_norm", "native_group_norm", "unsqueeze", "expand"),
)


class TracedNetwork:
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


def is_pointwise(operation: Operation, network: TracedNetwork) -> bool:
    """Tell whether an operation mixes the channels of each place by itself, with fixed weights."""
    if len(operation.inputs) != 1:
        return False
    if operation.name == "convolution":
        arguments = operation.arguments
        fixed = isinstance(arguments["weight"], Constant) and not arguments["transposed"]
        return fixed and set(arguments["weight"].shape[2:]) == {1} and arguments["groups"] == 1
    if operation.name not in PRODUCTS or network.changes_places(operation):
        return False
    return any(axis.step != 0 for axis in network.views[operation.inputs[0]].axes)


def reads_depthwise(operation: Operation, network: TracedNetwork) -> bool:
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


def _mixes(operation: Operation, network: TracedNetwork) -> bool:
    return not network.problem and network.changes_places(operation)


def _is_depthwise(operation: Operation | None, network: TracedNetwork) -> bool:
    if operation is None or operation.name != "convolution" or not isinstance(operation.arguments["weight"], Constant):
        return False
    arguments = operation.arguments
    own = arguments["groups"] == arguments["input"].shape[1] > 1 and not arguments["transposed"]
    return own and max(arguments["weight"].shape[2:]) > 1 and not network.idle_taps(operation)


def is_maximum(operation: Operation, network: TracedNetwork) -> bool:
    """Tell whether an operation takes the maximum over places of the map."""
    return ("max_pool" in operation.name or operation.name in MAXIMA) and network.changes_places(operation)
