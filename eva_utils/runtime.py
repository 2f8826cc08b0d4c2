"""What a run depends on besides its arguments: mode, seed, device and precision."""

import contextlib
import itertools
import os
import random
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import nn

from eva_utils.checks import whole_number

Mode = Literal["full", "demo", "smoke"]

AUTOCAST_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def run_mode() -> Mode:
    """Return how long the notebooks run: "smoke" if EVA_SMOKE=1, "demo" if EVA_DEMO=1, else "full".

    Smoke and demo runs use the built-in shapes and need no network: smoke is one epoch on a few
    hundred images, demo some epochs on some thousands. Raises ValueError for other values.
    """
    for mode in ("smoke", "demo"):
        variable = f"EVA_{mode.upper()}"
        value = os.environ.get(variable, "")
        if value not in ("", "0", "1"):
            raise ValueError(f"{variable}={value!r}: set it to 1, or unset it")
        if value == "1":
            return mode
    return "full"


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators with ``seed`` (0 to 2**32 - 1).

    This fixes the initial weights. Loaders take a seed of their own. Raises ValueError for another seed.
    """
    seed = whole_number("seed", seed, least=0, most=2**32 - 1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def best_device() -> torch.device:
    """Return the CUDA device, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer: the CPU if it has none."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        return tensor.device
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Return the device as records name it: a CUDA device's product name, or the type and the number of CPU cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = usable_cores()
    return f"{device.type}, {cores} core{'s' if cores > 1 else ''}"


def describe_device(device: torch.device) -> str:
    """Return the device in words; loudly if it is the CPU, where a full training takes long."""
    if device.type == "cuda":
        return f"GPU: {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return "GPU: Apple, through MPS"
    cores = usable_cores()
    return (
        f"NO GPU: a full training on {'this CPU core' if cores == 1 else f'these {cores} CPU cores'} takes long. "
        "In Colab: Runtime > Change runtime type > GPU."
    )


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def best_precision(device: torch.device) -> str:
    """Return the precision that the device computes fast in: a key of ``AUTOCAST_DTYPES``.

    bfloat16 where the hardware has it (Ampere and later, CPUs with AVX512-bf16 or AMX), float16 on
    older CUDA devices such as the T4, which only emulate bfloat16, and float32 elsewhere.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float16"
    if device.type == "cpu":
        cpu = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 and later
        if cpu.get("avx512_bf16") or cpu.get("amx_bf16"):
            return "bfloat16"
    return "float32"


def training_precision(model: nn.Module, device: torch.device, precision: str | None = None) -> str:
    """Return ``precision``, or the device's best for None, float32 if the model's gradients may be wrong in that.

    On a CPU two kinds of layer count. With AVX-512, in bfloat16 and channels-last layout, torch 2.11 takes the weight
    gradient of a convolution in groups with dilated rows, such as a dilated depthwise one, from memory beyond its own
    once its output is 29 columns wide or more. And on any CPU it sums the gradients of a layer normalisation's weight
    and bias in bfloat16 or float16, where the maps come in that and the model is not compiled: of a sum over many
    places much can be rounded away. The sizes of the maps are not known here, so any model with such a layer counts,
    compiled or not, unless the layer says that its float32 weights get the right gradients under autocast, by
    ``safe_in_half_precision = True``. Not seen are functions such as ``F.conv2d`` called directly, scripted models
    (give these precision="float32") and weights that are themselves in bfloat16. Raises ValueError where ``precision``
    asks for such a precision all the same, and for an unknown one.
    """
    chosen = best_precision(device) if precision is None else precision
    autocast(device, chosen)  # which refuses an unknown one
    if device.type != "cpu" or chosen == "float32":
        return chosen
    for name, layer in model.named_modules():
        kind = _wrong_on_a_cpu(layer, chosen)
        if kind and precision is None:
            return "float32"
        if kind:
            raise ValueError(
                f"precision={precision!r}: on a CPU torch can get the gradient of {name or type(layer).__name__!r} "
                f"wrong in it, {kind}; leave precision out, to train in float32 (a checkpoint of such a run in "
                f"{precision} cannot go on: restart=True)"
            )
    return chosen


def _wrong_on_a_cpu(layer: nn.Module, precision: str) -> str | None:
    """Return what the layer is, if torch may get its gradient wrong on a CPU in bfloat16 or float16."""
    if getattr(layer, "safe_in_half_precision", False):
        return None
    if isinstance(layer, nn.LayerNorm) and any(p.requires_grad for p in layer.parameters(recurse=False)):
        return "a layer normalisation"
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and precision == "bfloat16":
        return "a dilated convolution in groups" if layer.groups > 1 and layer.dilation[0] > 1 else None
    return None


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context that computes in ``precision``; it does nothing for float32."""
    if precision not in AUTOCAST_DTYPES:
        choices = ", ".join(AUTOCAST_DTYPES)
        raise ValueError(f"precision={precision!r}: choose one of {choices}")
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_DTYPES[precision])


def prepare_determinism(device: torch.device) -> None:
    """Set the environment variable that cuBLAS reads when CUDA starts and needs for repeatable sums.

    Raises ValueError where CUDA runs already without it.
    """
    if device.type != "cuda" or os.environ.get("CUBLAS_WORKSPACE_CONFIG") in (":4096:8", ":16:8"):
        return
    if torch.cuda.is_initialized():
        raise ValueError(
            "deterministic=True, but CUDA was started without it: restart the kernel and put "
            'os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8" before anything uses the GPU'
        )
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"


@contextlib.contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Let torch take none but repeatable algorithms, and put its settings back afterwards.

    Operations that have none raise RuntimeError.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # which would choose by the clock
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
