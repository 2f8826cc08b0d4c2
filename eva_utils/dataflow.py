"""What a network does with an image: the operations that run, in their order, and which reads which.

The network is run once, and torch reports each operation beneath modules and functions alike: a functional call, a
module used twice or a method of a tensor is seen as surely as a layer.
"""

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

# Operations whose result takes nothing but the shape of a tensor.
SHAPE_ONLY = {
    f"{how}{what}" for how in ("new_", "") for what in ("zeros", "ones", "full", "empty", "empty_strided")
} | {f"{what}_like" for what in ("zeros", "ones", "full", "empty", "rand", "randn", "randint")}


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor computed from the image: output number ``output`` of operation ``op`` (-1: the image itself)."""

    op: int
    output: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the image, such as a weight.

    ``learned`` says whether it is one of the model's parameters or computed from them; ``memory`` where it lies.
    """

    shape: tuple[int, ...]
    learned: bool
    memory: int


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation: its torch name without a trailing underscore, its arguments by name and its outputs.

    ``module`` is the path of the innermost module that ran it ("" for the network itself) and ``kind`` that module's
    class if it holds no other modules, else the operation's name. ``pointwise`` is torch's own word for an
    operation that maps each element by itself.
    """

    index: int
    name: str
    pointwise: bool
    module: str
    kind: str
    arguments: dict[str, Any]
    outputs: tuple[Value, ...]

    @property
    def inputs(self) -> list[Value]:
        """The tensors read that depend on the image."""
        return [leaf for leaf in tree_leaves(list(self.arguments.values())) if isinstance(leaf, Value)]

    def __str__(self) -> str:
        return f"{self.name} in {self.module or 'the network'!r}"


@dataclass(frozen=True, eq=False)
class Call:
    """One finished call of a module: its path, the tensors that it returned, and how many modules hold it."""

    path: str
    module: nn.Module
    outputs: tuple[Value, ...]
    owners: int


@dataclass
class Dataflow:
    """The image, the operations in the order in which they ran, the calls of modules and the network's outputs."""

    image: Value
    operations: list[Operation] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: tuple[Value, ...] = ()


def trace_dataflow(model: nn.Module, input_size: tuple[int, ...] = (3, 32, 32)) -> Dataflow:
    """Run a copy of the model on one image of ``input_size`` (channels, height, width); return what it did.

    The copy is on the CPU in eval mode, so the model, its mode, its statistics, its hooks and the random state stay as
    they were. Raises ValueError where the image decides which way the program takes, where a tensor is written to
    in part or its numbers leave torch, where the model cannot run on the image, and where no output depends on it.
    """
    if len(input_size) < 2 or min(input_size) < 1:
        raise ValueError(f"input_size={input_size}: expected (channels, height, width), all at least 1")
    clone = copy_of(model)
    image = torch.zeros(1, *input_size)
    recorder = _Recorder(clone, image)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), _NoEscape(recorder), recorder:
            result = clone(image)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        name = recorder.innermost()
        raise ValueError(f"{name} cannot run on one image of size {input_size}: {error}") from error
    recorder.flow.outputs = recorder.values(result)
    if not recorder.flow.outputs:
        raise ValueError(f"the output of {type(model).__name__} holds no tensor that depends on its input")
    return recorder.flow


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of the model on the CPU, in float32 and eval mode.

    Raises ValueError for a model without weights (on the meta device) or one that was compiled by torch.jit.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} was compiled by torch.jit, which hides its layers: give the original")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} is on the meta device: build it on the CPU, with weights")
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    # computed tensors that a module keeps, such as old weight norms or activations, refuse to be copied
    memo = {id(tensor): tensor.detach().clone() for tensor in held if tensor.grad_fn is not None}
    return copy.deepcopy(model, memo).to("cpu").float().eval()


class _NoEscape(TorchFunctionMode):
    """Refuse what takes the image's numbers out of torch, where nothing can follow them."""

    ESCAPES = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data.__set__)

    def __init__(self, recorder: "_Recorder") -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.ESCAPES and self.recorder.values(args):
            raise ValueError(
                f"{func.__name__} in {self.recorder.innermost()}: the program takes numbers of the image out of torch"
            )
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.flow = Dataflow(Value(-1, 0, tuple(image.shape)))
        self._value_of = WeakTensorKeyDictionary({image: self.flow.image})
        self._stack: list[tuple[str, nn.Module]] = [("", model)]
        self._owners = Counter(id(child) for module in model.modules() for child in module.children())
        self._learned = WeakTensorKeyDictionary(dict.fromkeys(model.parameters(), True))
        for path, module in model.named_modules():
            if module is not model:
                module.register_forward_pre_hook(self._enter(path), prepend=True)
                module.register_forward_hook(self._leave)

    def values(self, tensors: Any) -> tuple[Value, ...]:
        """Return the values of those tensors, anywhere within ``tensors``, that depend on the image."""
        known = [self._value_of.get(leaf) for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)]
        return tuple(value for value in known if value is not None)

    def innermost(self) -> str:
        """Return the module that is running, in words."""
        path, module = self._stack[-1]
        return f"{type(module).__name__} {path!r}" if path else type(module).__name__

    def _enter(self, path: str) -> Any:
        return lambda module, _inputs: self._stack.append((path, module))

    def _leave(self, module: nn.Module, _inputs: Any, outputs: Any) -> None:
        path, _ = self._stack.pop()
        self.flow.calls.append(Call(path, module, self.values(outputs), self._owners[id(module)]))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1].rstrip("_")
        tracked = self.values([args, kwargs])
        if tracked and name not in SHAPE_ONLY:
            self._record(func, name, {**dict(zip(_names(func), args, strict=False)), **(kwargs or {})}, result)
        elif any(leaf in self._learned for leaf in tree_leaves([args, kwargs]) if isinstance(leaf, Tensor)):
            self._learned.update({leaf: True for leaf in tree_leaves(result) if isinstance(leaf, Tensor)})
        return result

    def _record(self, func: Any, name: str, arguments: dict[str, Any], result: Any) -> None:
        index = len(self.flow.operations)
        path, module = self._stack[-1]
        kind = name if any(module.children()) or not path else type(module).__name__
        described = {key: tree_map(self._describe, value) for key, value in arguments.items()}
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        values = tuple(Value(index, number, tuple(tensor.shape)) for number, tensor in enumerate(outputs))
        pointwise = torch.Tag.pointwise in func.tags
        operation = Operation(index, name, pointwise, path, kind, described, values)
        if name == "local_scalar_dense" or not outputs:
            raise ValueError(f"{operation}: the program reads a number from the image, so its way cannot be known")
        if "out" in arguments:
            raise ValueError(f"{operation}: it writes into a tensor made elsewhere, which cannot be followed")
        if func._schema.is_mutable:
            self._check_write(operation, result, arguments)
        self.flow.operations.append(operation)
        self._value_of.update(zip(outputs, values, strict=True))

    def _check_write(self, operation: Operation, target: Any, arguments: dict[str, Any]) -> None:
        """Refuse writes that other tensors would see and this record would not."""
        if not isinstance(target, Tensor) or target not in self._value_of:
            raise ValueError(f"{operation}: it writes into a tensor made elsewhere, which cannot be followed")
        if len(self.values(list(arguments.values()))) > 1 and any(
            other is not target and other.untyped_storage().data_ptr() == target.untyped_storage().data_ptr()
            for other in self._value_of
        ):
            raise ValueError(f"{operation}: it writes into a part of another tensor, which cannot be followed")

    def _describe(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            memory = leaf.untyped_storage().data_ptr()
            return self._value_of.get(leaf) or Constant(tuple(leaf.shape), leaf in self._learned, memory)
        return leaf


def _names(func: Any) -> list[str]:
    return [argument.name for argument in func._schema.arguments]
