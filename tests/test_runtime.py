import copy
import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from eva_utils import runtime
from eva_utils.models.gated_mirror_net import ChannelNorm
from eva_utils.runtime import (
    autocast,
    best_precision,
    describe_device,
    deterministic_algorithms,
    prepare_determinism,
    run_mode,
    seed_everything,
    training_precision,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "full"),
        ({"EVA_SMOKE": "1"}, "smoke"),
        ({"EVA_DEMO": "1"}, "demo"),
        ({"EVA_SMOKE": "1", "EVA_DEMO": "1"}, "smoke"),
        ({"EVA_SMOKE": "0", "EVA_DEMO": ""}, "full"),
    ],
)
def test_the_mode_follows_the_environment(monkeypatch, variables, mode):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run_mode() == mode


def test_other_values_are_named(monkeypatch):
    monkeypatch.setenv("EVA_DEMO", "yes")
    with pytest.raises(ValueError, match="EVA_DEMO='yes': set it to 1, or unset it"):
        run_mode()


def test_a_seed_fixes_all_three_generators():
    def draw():
        seed_everything(7)
        return random.random(), np.random.random(), torch.rand(1).item()

    assert draw() == draw()
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=f"seed={seed}: expected a whole number from 0"):
            seed_everything(seed)


@pytest.mark.parametrize(
    ("native", "precision"),
    [(True, "bfloat16"), (False, "float16")],  # the T4 emulates bfloat16: not native
)
def test_precision_on_cuda_is_what_the_hardware_has(monkeypatch, native, precision):
    def is_bf16_supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert best_precision(CUDA) == precision


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx2": True}, "float32")],
)
def test_precision_on_the_cpu_is_what_the_hardware_has(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert best_precision(CPU) == precision


class Handed(nn.Conv2d):
    """A layer with a forward of its own that is nn.Conv2d's."""

    def forward(self, x):
        return super().forward(x)


class ByOtherMeans(Handed):
    safe_in_half_precision = True


DEPTHWISE = {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 8}


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize(
    ("layer", "best"),
    [
        (nn.Conv2d(8, 8, **DEPTHWISE), "float32"),
        (nn.ConvTranspose2d(8, 8, **DEPTHWISE), "float32"),
        (Handed(8, 8, **DEPTHWISE), "float32"),
        (nn.Conv2d(8, 8, (3, 1), padding=(2, 0), dilation=(2, 1), groups=2), "float32"),
        (nn.Conv2d(8, 8, (1, 3), padding=(0, 2), dilation=(1, 2), groups=2), "bfloat16"),
        (nn.Conv2d(8, 8, 3, padding=2, dilation=2), "bfloat16"),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), "bfloat16"),
        (ByOtherMeans(8, 8, **DEPTHWISE), "bfloat16"),
        (nn.BatchNorm2d(8), "bfloat16"),
        (nn.LayerNorm(8, elementwise_affine=False), "bfloat16"),
        (ChannelNorm(8, elementwise_affine=False), "bfloat16"),
        (ChannelNorm(8), "bfloat16"),
    ],
)
def test_a_model_whose_gradients_may_be_wrong_trains_in_float32(monkeypatch, layer, best):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), layer)
    assert training_precision(model, CPU) == best
    assert training_precision(model, CPU, "float16") == "float16"
    assert training_precision(model, CUDA, "bfloat16") == "bfloat16"
    if best == "bfloat16":
        assert training_precision(model, CPU, "bfloat16") == "bfloat16"
        return
    for network, name in ((model, "1"), (layer, type(layer).__name__)):
        with pytest.raises(
            ValueError, match=f"the gradient of '{name}' wrong in it, a dilated .*; leave precision out"
        ):
            training_precision(network, CPU, "bfloat16")


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("kind", [nn.LayerNorm, LayerNorm2d])
def test_a_layer_normalisation_trains_in_float32(monkeypatch, kind):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    layer = kind(8)
    model = nn.Sequential(nn.Linear(3, 8), layer)
    assert training_precision(model, CPU) == "float32"
    assert training_precision(model, CUDA, "bfloat16") == "bfloat16"
    for network, name in ((model, "1"), (layer, kind.__name__)):
        for precision in ("bfloat16", "float16"):
            with pytest.raises(
                ValueError, match=f"{precision}.* of '{name}' wrong in it, a layer normalisation; leave precision out"
            ):
                training_precision(network, CPU, precision)
    layer.requires_grad_(False)
    assert training_precision(model, CPU) == "bfloat16"


def test_a_layer_normalisation_has_the_right_gradients_in_the_precision_that_is_chosen(monkeypatch):
    """Against float64, on as many places as a batch has. In bfloat16, on any CPU, the second is far off."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    torch.manual_seed(0)
    layer, exact = nn.LayerNorm(16), nn.LayerNorm(16).double()
    images, weights = torch.randn(65_536, 16), torch.randn(65_536, 16) + 0.1
    with autocast(CPU, training_precision(layer, CPU)):
        said = layer(images @ torch.eye(16))  # in the precision of the matrix product
    said.backward(weights.to(said.dtype))
    exact(images.double()).backward(weights.double())
    for found, right in zip(layer.parameters(), exact.parameters(), strict=True):
        assert (found.grad - right.grad).norm() / right.grad.norm() < 0.02


def test_the_layer_normalisation_of_the_channels_has_the_right_gradients():
    """Against float64, with as many places as a batch has; a sum of theirs in bfloat16 is far off."""
    torch.manual_seed(0)
    norm, exact = ChannelNorm(16), ChannelNorm(16).double()
    images, weights = torch.randn(64, 16, 32, 32).bfloat16(), (torch.randn(64, 16, 32, 32) + 0.1).bfloat16()
    exact(images.double()).backward(weights.double())
    with autocast(CPU, "bfloat16"):
        said = norm(images)
    assert said.dtype == torch.float32
    said.backward(weights.float())
    for weight in ("weight", "bias"):
        right = getattr(exact, weight).grad
        assert (getattr(norm, weight).grad - right).norm() / right.norm() < 1e-4


@pytest.mark.parametrize(
    "kind",
    [
        {"padding": 2, "dilation": 2, "groups": 16},
        {"padding": (0, 2), "dilation": (1, 2), "groups": 16},
        {"padding": 2, "dilation": 2},
        {"padding": 1, "groups": 16},
    ],
)
def test_the_precision_that_is_chosen_has_the_right_gradients(kind):
    """Against float64, on a map as wide as an image. It can fail where the CPU has bfloat16."""
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 16, 3, **kind).to(memory_format=torch.channels_last)
    images = torch.randn(8, 16, 34, 32).to(memory_format=torch.channels_last)
    with autocast(CPU, training_precision(layer, CPU)):
        said = layer(images)
    weights = torch.randn(said.shape)
    (said.float() * weights).sum().backward()
    exact = copy.deepcopy(layer).double()
    exact.zero_grad()
    (exact(images.double()) * weights.double()).sum().backward()
    error = (layer.weight.grad - exact.weight.grad).norm() / exact.weight.grad.norm()
    assert error < 0.02


def test_autocast_computes_in_the_precision():
    a = torch.ones(2, 2)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(CPU, precision):
            assert (a @ a).dtype == dtype


def test_the_cpu_is_said_loudly(monkeypatch):
    monkeypatch.setattr(runtime, "usable_cores", lambda: 3)
    assert describe_device(CPU).startswith("NO GPU: a full training on these 3 CPU cores takes long.")
    monkeypatch.setattr(runtime, "usable_cores", lambda: 1)
    assert describe_device(CPU).startswith("NO GPU: a full training on this CPU core takes long.")


def test_cublas_is_told_before_cuda_starts_or_the_way_out_is_said(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    prepare_determinism(CPU)
    with pytest.raises(ValueError, match=r'restart the kernel and put os.environ\["CUBLAS_WORKSPACE_CONFIG"\]'):
        prepare_determinism(CUDA)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    prepare_determinism(CUDA)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_deterministic_algorithms_are_taken_and_left():
    with deterministic_algorithms():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
