import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import SqueezeExcitation

from eva_utils.models import NETWORKS, build_network, load_pretrained
from eva_utils.models.blocks import conv, residual_convs, residual_separable, separable_relu_norm, start_at_identity
from eva_utils.models.dilated_net import DilatedNet

ROOT = Path(__file__).parent.parent
WEIGHTS = sorted((ROOT / "eva_utils" / "weights").glob("*.pt"))
# as the files say; the receptive field before the pooling
PARAMETERS = {
    "dilated_net": 98_180,
    "dilated_separable_net": 175_696,
    "small_residual_net": 95_092,
    "residual_net": 191_264,
    "small_mirror_net": 95_055,
    "mirror_net": 193_632,
    "small_gated_mirror_net": 91_424,
}
MULTIPLY_ADDS = {
    "dilated_net": 11.2e6,
    "dilated_separable_net": 18.6e6,
    "small_residual_net": 18.2e6,
    "residual_net": 29.7e6,
    "small_mirror_net": 40.4e6,
    "mirror_net": 57.1e6,
    "small_gated_mirror_net": 57.6e6,
}
RECEPTIVE_FIELD = {  # height and width
    "dilated_net": (115, 115),
    "dilated_separable_net": (71, 71),
    "small_residual_net": (69, 69),
    "residual_net": (49, 49),
    "small_mirror_net": (69, 72),
    "mirror_net": (97, 100),
    "small_gated_mirror_net": (143, 144),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_multiply_adds(name):
    assert sum(p.numel() for p in build_network(name).parameters()) == PARAMETERS[name]
    with FlopCounterMode(display=False) as counter:
        build_network(name).eval()(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 == pytest.approx(MULTIPLY_ADDS[name], rel=0.005)


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_field(name):
    """Count the pixels that can change the middle unit before the pooling, on a large enough image."""
    layers = build_network(name).eval().layers
    end = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d))
    features = layers[:end].requires_grad_(False).double()
    for module in list(features.modules()):
        for child, layer in module.named_children():
            if isinstance(layer, SqueezeExcitation):
                setattr(module, child, nn.Identity())  # the gate, which sees the whole map
    for parameter in features.parameters():
        parameter.fill_(0.1)  # positive, so that nothing cancels
    image = torch.rand(1, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    output = features(image)
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
    for other_axis, field in zip((2, 1), RECEPTIVE_FIELD[name], strict=True):
        touched = image.grad[0].abs().sum((0, other_axis)).nonzero()
        assert int(touched.max() - touched.min()) + 1 == field


@pytest.mark.parametrize("block", [residual_convs, residual_separable])
def test_few_channels_have_a_gate_too(block):
    assert block(3)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_image_in_logits_out_and_every_parameter_learns(name):
    torch.manual_seed(0)  # by chance, a gate's few hidden units can all be silent at the start
    model = build_network(name)
    model(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert build_network(name, num_classes=7).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_network_that_starts_at_the_identity_hands_its_input_on():
    layers = nn.Sequential(
        conv(3, 3),
        *(conv(3, 5), conv(5, 5, kernel_size=1), conv(5, 4, stride=2, dilation=2)),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
    )
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    nn.init.dirac_(layers[0].weight)
    start_at_identity(layers)
    images = torch.rand(2, 3, 8, 8)
    seen = layers(images)
    assert torch.equal(seen[:, :3], images[:, :, ::2, ::2])
    assert not seen[:, 3].any()
    before = build_network("dilated_net").requires_grad_(False)
    after = copy.deepcopy(before)
    start_at_identity(after)
    pairs = [(b, a) for b, a in zip(before.modules(), after.modules(), strict=True) if isinstance(a, nn.Conv2d)]
    ones = [round(float((a.weight - b.weight).sum())) for b, a in pairs]
    assert ones == [0, *(c.out_channels if c.groups > 1 else min(c.in_channels, c.out_channels) for c, _ in pairs[1:])]
    with pytest.raises(ValueError, match="was called on this network before: build it anew"):
        start_at_identity(after)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no network is called 'resnet': choose one of dilated_net, dilated_separable"):
        load_pretrained("resnet")


@pytest.mark.parametrize(
    "norm", [lambda channels: nn.GroupNorm(1, channels), lambda channels: nn.GroupNorm(2, channels)]
)
def test_the_normalisation_is_an_argument_and_costs_the_same(norm):
    model = DilatedNet(norm=norm)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.GroupNorm) == 12
    assert nn.BatchNorm2d not in kinds
    assert sum(p.numel() for p in model.parameters()) == 98_180


def test_separable_convolution_costs_what_it_says():
    weights = [p for p in separable_relu_norm(32, 64).parameters() if p.ndim == 4]
    assert sum(p.numel() for p in weights) == 9 * 32 + 32 * 64
    assert conv(8, 8, dilation=3).padding == (3, 3)


@pytest.mark.parametrize("path", WEIGHTS, ids=[path.stem for path in WEIGHTS])
def test_pretrained_networks_are_ready_to_use(path):
    assert path.stat().st_size < 1_000_000
    model = load_pretrained(path.stem)
    assert not any(module.training for module in model.modules())
    assert next(model.parameters()).device.type == "cpu"
    assert all(module.num_batches_tracked > 1000 for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def test_weights_and_records_come_together(monkeypatch):
    by_notebook = {path.stem for path in (ROOT / "results").glob("*.json")} & set(NETWORKS)
    by_probe = {name for name in NETWORKS if (ROOT / f"experiments/records/{name}_0_test.json").exists()}
    assert {path.stem for path in WEIGHTS} == by_notebook | by_probe
    assert not by_notebook & by_probe
    monkeypatch.setitem(NETWORKS, "new", NETWORKS["dilated_net"])
    with pytest.raises(FileNotFoundError, match="no weights of 'new' are shipped yet; to train it: python -m eva"):
        load_pretrained("new")
