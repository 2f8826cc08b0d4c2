import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import SqueezeExcitation

from eva_utils.dataflow import trace_dataflow
from eva_utils.fields import follow
from eva_utils.measured_field import effective_receptive_field, measure_receptive_field, touched_pixels
from eva_utils.models import NETWORKS, build_network
from eva_utils.receptive_field import receptive_field


class Calls(nn.Module):
    """A network that is one function of its modules and the image."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def row(model, name, size=(3, 32, 32)):
    return next(row for row in receptive_field(model, size).rows if row.name == name)


# -- by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "before", "after"), [("dilated_net", 115, 139), ("dilated_separable_net", 71, 83)])
def test_the_networks_of_the_series(name, before, after):
    result = receptive_field(build_network(name))
    assert result.before_pooling == (before, before)
    assert result.after_pooling == (after, after)
    assert result.global_paths == ()


def test_each_layer_has_its_field_jump_and_first_centre_on_each_axis():
    model = nn.Sequential(
        nn.Conv2d(3, 4, (5, 3), padding=(2, 0)),
        nn.Conv2d(4, 4, 3, stride=(2, 1), padding=1, dilation=(1, 2)),
        nn.MaxPool2d(2),
    )
    rows = receptive_field(model, (3, 40, 40)).rows
    assert [r.receptive_field for r in rows] == [(5, 3), (7, 7), (9, 8)]
    assert [r.jump for r in rows] == [(1, 1), (2, 1), (4, 2)]
    assert [r.start for r in rows] == [(0, 1), (0, 2), (1, 2.5)]
    assert [r.output_size for r in rows] == [(40, 38), (20, 36), (10, 18)]
    assert [(r.name, r.kind) for r in rows] == [("0", "Conv2d"), ("1", "Conv2d"), ("2", "MaxPool2d")]


def test_units_behind_a_transposed_convolution_see_different_fields_and_the_largest_counts():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 3, stride=2), nn.Conv2d(1, 1, 2))
    assert row(model, "1", (1, 20, 20)).receptive_field == (4, 4)  # even units read two, odd ones read one
    assert row(model, "1", (1, 20, 20)).jump == (0.5, 0.5)
    assert row(model, "2", (1, 20, 20)).receptive_field == (4, 4)


def test_a_transposed_convolution_with_gaps_has_units_that_see_nothing():
    model = nn.ConvTranspose2d(1, 1, 1, stride=2)
    assert receptive_field(model, (1, 9, 9)).before_pooling == (1, 1)


@pytest.mark.parametrize(("mode", "size"), [("nearest", 3), ("bilinear", 4), ("bicubic", 6)])
def test_upsampling_by_whole_factors(mode, size):
    model = Calls(lambda m, x: F.interpolate(m.conv(x), scale_factor=2, mode=mode), conv=nn.Conv2d(1, 1, 3))
    assert receptive_field(model, (1, 20, 20)).before_pooling == (size, size)


def test_one_dimension_and_three():
    assert receptive_field(nn.Sequential(nn.Conv1d(2, 2, 5), nn.MaxPool1d(2)), (2, 30)).before_pooling == (6,)
    assert receptive_field(nn.Conv3d(1, 1, (1, 3, 5)), (1, 8, 8, 8)).before_pooling == (1, 3, 5)


def test_uneven_adaptive_pooling_takes_the_largest_window():
    assert receptive_field(nn.AdaptiveAvgPool2d(3), (1, 8, 8)).before_pooling == (4, 4)  # windows 0-2, 2-5, 5-7


# -- dataflow, not modules ----------------------------------------------------------------------------------


def test_functional_calls_and_reused_modules_count():
    model = Calls(
        lambda m, x: F.relu(m.conv(F.max_pool2d(m.conv(F.conv2d(x, m.kernel)), 2))),
        conv=nn.Conv2d(1, 1, 3),
        kernel=nn.Parameter(torch.ones(1, 1, 3, 3)),
    )
    rows = receptive_field(model, (1, 30, 30)).rows
    assert [r.kind for r in rows] == ["convolution", "Conv2d", "max_pool2d_with_indices", "Conv2d"]
    assert [r.receptive_field[0] for r in rows] == [3, 5, 6, 10]


@pytest.mark.parametrize("join", [torch.add, torch.mul, lambda a, b: torch.cat([a, b], dim=1)])
def test_the_largest_path_wins_and_the_row_says_so(join):
    model = Calls(
        lambda m, x: join(m.small(x), m.large(x)),
        small=nn.Conv2d(1, 2, 3, padding=1),
        large=nn.Conv2d(1, 2, 5, padding=4, dilation=2),
    )
    last = receptive_field(model, (1, 30, 30)).rows[-1]
    assert last.receptive_field == (9, 9)
    assert last.note == "largest of 2 paths"


def test_paths_that_look_to_different_sides_see_both():
    model = Calls(lambda m, x: m.conv(F.pad(x, (4, 0, 0, 0))[..., :30]) + m.conv(x), conv=nn.Conv2d(1, 1, 1))
    assert receptive_field(model, (1, 30, 30)).before_pooling == (1, 5)


def test_strided_slices_and_channel_shuffles_are_followed():
    def shuffle(m, x):
        x = m.conv(x)[:, :, ::2, 1::3]
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        a, b = x.chunk(2, dim=1)
        return m.conv2(torch.cat([b, a], dim=1))

    model = Calls(shuffle, conv=nn.Conv2d(1, 4, 3), conv2=nn.Conv2d(4, 4, 3))
    assert receptive_field(model, (1, 30, 30)).before_pooling == (3 + 2 * 2, 3 + 2 * 3)


def test_squeeze_and_excitation_is_named_and_widens_nothing():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), SqueezeExcitation(8, 2), nn.Conv2d(8, 8, 3))
    result = receptive_field(model)
    assert result.before_pooling == (5, 5)
    assert result.global_paths == ("1.avgpool (AdaptiveAvgPool2d)",)
    assert "the whole map also gets in through 1.avgpool" in str(result)


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 8), nn.InstanceNorm2d(8), nn.LayerNorm([8, 30, 30])])
def test_statistics_over_the_map_are_named(norm):
    result = receptive_field(nn.Sequential(nn.Conv2d(3, 8, 3), norm))
    assert result.before_pooling == (3, 3)
    assert len(result.global_paths) == 1
    assert result.global_paths[0].startswith("1 (")


def test_batch_normalisation_sees_nothing_else():
    assert receptive_field(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))).global_paths == ()


@pytest.mark.parametrize(
    "head",
    [
        lambda m, x: x.mean(dim=(2, 3)),
        lambda m, x: x.mean(3).mean(2),
        lambda m, x: m.linear(x.flatten(1)),
        lambda m, x: F.avg_pool2d(x, 8).squeeze(),
        lambda m, x: F.adaptive_max_pool2d(x, 1),
        lambda m, x: x.amax((2, 3), keepdim=True),
    ],
)
def test_whatever_pools_the_map_has_a_field_before_and_after(head):
    model = Calls(
        lambda m, x: head(m, m.conv(x)), conv=nn.Conv2d(3, 2, 3, stride=4, padding=1), linear=nn.Linear(128, 5)
    )
    result = receptive_field(model)
    assert result.before_pooling == (3, 3)
    assert result.after_pooling == (3 + 7 * 4, 3 + 7 * 4)


def test_a_gate_that_the_program_expands_is_a_global_path():
    def efficient_channel_attention(m, x):
        y = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        y = m.mix(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)

    model = Calls(efficient_channel_attention, mix=nn.Conv1d(1, 1, 3, padding=1))
    result = receptive_field(nn.Sequential(nn.Conv2d(3, 8, 3), model, nn.Conv2d(8, 8, 3)))
    assert (result.before_pooling, len(result.global_paths)) == ((5, 5), 1)


def test_weights_that_come_from_the_map_are_a_global_path():
    def dynamic(m, x):
        weights = m.make(x.mean((2, 3))).view(1, 4, 4)
        return torch.bmm(x.flatten(2).transpose(1, 2), weights)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Calls(dynamic, make=nn.Linear(4, 16)))
    assert len(receptive_field(model).global_paths) == 1


def test_channels_may_be_cut_in_any_way():
    model = Calls(
        lambda m, x: m.conv(x).view(1, 4, 6, 32, 32).reshape(1, 24, 32, 32).view(1, 3, 8, 32, 32).mean(2),
        conv=nn.Conv2d(3, 24, 3, padding=1),
    )
    assert receptive_field(model).before_pooling == (3, 3)


def test_only_units_that_exist_count():
    uneven = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(1, 1, 2))
    assert receptive_field(uneven, (1, 10, 10)).before_pooling == (7, 7)
    upsampled = nn.Sequential(nn.Conv2d(1, 1, 5), nn.Upsample(scale_factor=4), nn.Conv2d(1, 1, 3))
    assert receptive_field(upsampled, (1, 5, 5)).before_pooling == (5, 5)


def test_pooling_axis_by_axis_is_pooling():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d((32, 1)), nn.AvgPool2d((1, 32)))
    assert receptive_field(model).before_pooling == (3, 3)
    strip = Calls(
        lambda m, x: m.row(m.conv(x).mean(2)), conv=nn.Conv2d(3, 4, 3, padding=1), row=nn.Conv1d(4, 4, 9, padding=4)
    )
    assert receptive_field(strip).before_pooling == (3, 11)


def test_normal_wear_of_a_model_is_no_obstacle():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))

        def forward(self, x):
            self.last = self.conv(x)
            return self.last

    model = Keeps()
    model(torch.zeros(1, 3, 8, 8))
    assert receptive_field(model).before_pooling == (3, 3)


# -- refusals -----------------------------------------------------------------------------------------------


def write_into_part(m, x):
    x = m.conv(x)
    x[:, :, ::2] = m.conv(x[:, :, ::2])
    return x


def write_elsewhere(m, x):
    result = torch.zeros(1, 1, 32, 32)
    result[:, :, ::2] = x[:, :1, ::2]
    return result


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda m, x: torch.roll(x, 3, dims=2), "roll in 'the network'"),
        (lambda m, x: F.grid_sample(x, torch.zeros(1, 4, 4, 2), align_corners=False), "grid_sampler"),
        (lambda m, x: F.unfold(x, 3), "im2col"),
        (lambda m, x: x.view(1, 3, 4, 8, 32), "cuts a map into pieces"),
        (lambda m, x: x + x.flip(2), "1 and -1 pixels apart"),
        (lambda m, x: x if x.sum() > 0 else -x, "reads a number from the image"),
        (lambda m, x: F.interpolate(x, size=(48, 48)), "whole factor"),
        (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), "align_corners"),
        (lambda m, x: torch.cat([x, x], dim=2), "beside each other"),
        (lambda m, x: x[:, :, :16, :16] + F.max_pool2d(x, 2), "1 and 2 pixels apart"),
        (lambda m, x: x + x.transpose(2, 3), "laid out in different ways"),
        (lambda m, x: torch.fft.fft2(x).real, "fft"),
        (lambda m, x: torch.ones(1, 3), "no tensor that depends on its input"),
        (write_into_part, "a part of another tensor"),
        (lambda m, x: x + torch.from_numpy(m.conv(x).numpy().copy()), "out of torch"),
        (lambda m, x: x if sum(x.flatten().tolist()) else -x, "out of torch"),
        (lambda m, x: torch.add(x, 1, out=torch.empty(1, 3, 32, 32)), "writes into a tensor made elsewhere"),
        (lambda m, x: torch.einsum("nchw,nchw->nhw", x, m.conv(x)), "both factors of the product"),
        (lambda m, x: torch.baddbmm(x[0], x[0], torch.ones(3, 32, 32)), "what is added to the product"),
        (lambda m, x: F.interpolate(x, scale_factor=3.04, mode="bilinear"), "whole factor"),
        (lambda m, x: m.conv(x[:, :2]), "cannot run on one image of size"),
        (write_elsewhere, "a tensor made elsewhere"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(function, names):
    with pytest.raises(ValueError, match=names):
        receptive_field(Calls(function, conv=nn.Conv2d(3, 3, 3, padding=1)))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_models_that_cannot_be_looked_into_are_refused():
    with pytest.raises(ValueError, match=r"compiled by torch\.jit"):
        receptive_field(torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)))
    with torch.device("meta"):
        model = nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match="on the meta device"):
        receptive_field(model)


def test_a_vision_transformer_is_refused():
    with pytest.raises(ValueError, match="beside each other"):
        receptive_field(torchvision.models.vit_b_32(weights=None), (3, 224, 224))


def test_the_model_stays_as_it_was():
    model = build_network("dilated_net").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    receptive_field(model)
    measure_receptive_field(model)
    effective_receptive_field(model, torch.full((2, 3, 32, 32), 0.5))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


# -- against the gradient -----------------------------------------------------------------------------------


class Branch(nn.Module):
    """Two paths of one size that meet."""

    def __init__(self, kernel_size, dilation, stride, join):
        super().__init__()
        self.join = join
        self.short = nn.Conv2d(2, 2, (3, 1), stride, padding=(1, 0))
        pad = tuple(dilation * (k - 1) // 2 for k in kernel_size)
        self.long = nn.Conv2d(2, 2, kernel_size, stride, pad, dilation)
        self.merge = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a, b = self.short(x), self.long(x)
        if self.join == "cat":
            return self.merge(torch.cat([a, b], dim=1))
        return a + b if self.join == "add" else a * b


class Dense(nn.Module):
    """Each layer reads all maps before it."""

    def __init__(self, *dilations):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2 * n, 2, 3, padding=d, dilation=d) for n, d in enumerate(dilations, 1))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x[:, -2:]


class Hourglass(nn.Module):
    """Down, through a layer, up again, and joined with what went past."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        inside = self.inner(F.max_pool2d(x, 2))
        wide = F.interpolate(inside, scale_factor=2)
        rows, columns = min(x.shape[2], wide.shape[2]), min(x.shape[3], wide.shape[3])
        return x[:, :, :rows, :columns] + wide[:, :, :rows, :columns]


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


LAYERS = st.one_of(
    st.builds(
        lambda k, s, d, p, g: nn.Conv2d(2, 2, k, s, p, d, groups=g),
        pairs(1, 4),
        pairs(1, 2),
        pairs(1, 3),
        pairs(0, 3),
        st.sampled_from([1, 2]),
    ),
    st.builds(
        lambda k, s, p, d, g: nn.ConvTranspose2d(2, 2, k, s, min(p, k - 1), min(s, 2) - 1, g, dilation=d),
        st.integers(2, 4),
        st.integers(1, 3),
        st.integers(0, 1),
        st.integers(1, 2),
        st.sampled_from([1, 2]),
    ),
    st.builds(
        lambda k, s, p, d, c: nn.MaxPool2d(k, s, min(p, k // 2), d, ceil_mode=c),
        st.integers(2, 3),
        st.integers(1, 3),
        st.integers(0, 1),
        st.integers(1, 2),
        st.booleans(),
    ),
    st.builds(nn.AvgPool2d, pairs(1, 3), st.integers(1, 2)),
    st.builds(
        lambda f, m: nn.Upsample(scale_factor=f, mode=m),
        st.integers(2, 3),
        st.sampled_from(["nearest", "bilinear", "bicubic"]),
    ),
    st.builds(nn.AdaptiveAvgPool2d, pairs(20, 40)),
    st.builds(
        Branch,
        st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3])),
        st.integers(1, 3),
        st.integers(1, 2),
        st.sampled_from(["add", "mul", "cat"]),
    ),
    st.builds(Dense, st.integers(1, 2), st.integers(1, 3)),
    st.builds(lambda k, p: Hourglass(nn.Conv2d(2, 2, k, padding=k // 2)), st.sampled_from([1, 3]), st.none()),
)


def with_normalisation(layers):
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.BatchNorm2d(2), nn.ReLU())])


@settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(st.lists(LAYERS, min_size=1, max_size=4))
def sees_what_the_gradient_says(measured, layers):
    model, size, margin = with_normalisation(layers), (2, 73, 67), 16
    try:
        flow = trace_dataflow(model, size)
    except ValueError:  # a kernel larger than its map
        assume(False)
    (output,) = flow.outputs
    assume(min(output.shape[2:]) > 0 and math.prod(output.shape) < 200_000)
    views = follow(flow)
    axes = views[output].axes
    assume(all(axis.step > 0 for axis in axes))
    # a unit that sees nothing on one axis sees nothing on the other; the axes are followed one by one
    assume(all(math.isfinite(first) for view in views.values() for axis in view.axes for first in axis.first))
    fields = [axis.field_of(units // 2) for axis, units in zip(axes, output.shape[2:], strict=True)]
    assume(all(margin <= first <= last < n - margin for (first, last), n in zip(fields, size[1:], strict=True)))
    assert touched_pixels(model, size, str(len(model) - 1)) == tuple(fields)
    measured.append(layers)


def test_hundreds_of_random_networks_see_what_the_gradient_says():
    measured = []
    sees_what_the_gradient_says(measured)
    assert len(measured) >= 300
    kinds = {type(layer) for layers in measured for layer in layers}
    assert kinds >= {
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.MaxPool2d,
        nn.Upsample,
        nn.AdaptiveAvgPool2d,
        Branch,
        Dense,
        Hourglass,
    }


@pytest.mark.parametrize(
    ("name", "layer", "height"),
    [
        ("alexnet", "features", 400),  # needs 63 pixels on the other axis
        ("vgg11", "features", 360),
        ("resnet18", None, 900),
        ("densenet121", None, 4300),
        ("mobilenet_v2", None, 1000),
        ("mobilenet_v3_small", None, 1300),
        ("shufflenet_v2_x0_5", None, 1100),
        ("squeezenet1_1", None, 450),
        ("googlenet", None, 800),
        ("regnet_x_400mf", None, 2000),
        ("regnet_y_400mf", None, 1200),
        ("convnext_tiny", None, 3500),
        ("efficientnet_b0", None, 1800),
    ],
)
def test_torchvisions_families_see_what_the_gradient_says(name, layer, height):
    arguments = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **arguments)
    gates = [path for path, module in model.named_modules() if isinstance(module, SqueezeExcitation)]
    result = receptive_field(model, (3, 224, 224))
    assert result.global_paths == tuple(f"{path}.avgpool (AdaptiveAvgPool2d)" for path in gates)
    measured = measure_receptive_field(
        model, (3, height, 64 if name == "alexnet" else 32), layer
    )  # one axis at full length is quick
    assert measured[0] == result.before_pooling[0] == result.before_pooling[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_of_the_series_see_what_the_gradient_says(name):
    model = build_network(name)
    pools = [isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) for layer in model.layers]
    last = f"layers.{pools.index(True) - 1}"
    result = receptive_field(model)
    gates = [path for path, module in model.named_modules() if isinstance(module, SqueezeExcitation)]
    assert result.global_paths == tuple(f"{path}.avgpool (AdaptiveAvgPool2d)" for path in gates)
    assert measure_receptive_field(model, (3, 240, 240), last) == result.before_pooling


@pytest.mark.parametrize(
    ("name", "size", "field"), [("alexnet", 224, 195), ("vgg16", 224, 212), ("inception_v3", 299, 1311)]
)
def test_published_values(name, size, field):
    """Simonyan & Zisserman's network as is well known, the others as in Araujo et al. 2019."""
    arguments = {"init_weights": False} if name == "inception_v3" else {}
    model = torchvision.models.get_model(name, weights=None, **arguments)
    assert receptive_field(model, (3, size, size)).before_pooling == (field, field)


# -- effective ----------------------------------------------------------------------------------------------


def test_the_effective_field_of_a_linear_network_is_its_kernel():
    model = nn.Conv2d(1, 1, 3, padding=1)
    picture = effective_receptive_field(model, torch.rand(4, 1, 9, 9), "")
    kernel = model.weight.detach().abs()[0, 0].numpy()
    np.testing.assert_allclose(picture[3:6, 3:6], kernel / kernel.max(), rtol=1e-5)
    assert picture.sum() == pytest.approx(picture[3:6, 3:6].sum())


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match=r"no layer 'layers\.99'"):
        measure_receptive_field(build_network("dilated_net"), layer="layers.99")
    with pytest.raises(ValueError, match="gives no map"):
        effective_receptive_field(build_network("dilated_net"), torch.zeros(1, 3, 32, 32), "")


# -- flips --------------------------------------------------------------------------------------------------


def test_a_flipped_map_sees_from_the_other_side():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2), Calls(lambda _, x: x.flip(2, 3)), nn.Conv2d(1, 1, 2))
    last = row(model, "2", (1, 11, 15))  # 5x7 units, the first pixels of whose fields are 0, 2 ... 8 and 0, 2 ... 12
    assert last.receptive_field == (5, 5)
    assert last.jump == (-2, -2)
    assert last.start == (8, 12)  # what was the last unit sees pixels 8 to 10 and 12 to 14, its neighbour 6 to 8, ...


@pytest.mark.parametrize("size", [15, 16])
def test_a_map_meets_what_comes_of_the_mirror_image(size):
    """At an even size a strided convolution reads the image and its mirror image one pixel apart."""
    conv, last = nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.Conv2d(1, 1, 1)
    model = Calls(lambda m, x: m.last(m.conv(x) + m.conv(x.flip(3)).flip(3)), conv=conv, last=last)
    field = receptive_field(model, (1, size, size)).before_pooling
    assert field == (3, 4 - size % 2)
    assert measure_receptive_field(model, (1, size, size)) == field


def test_a_single_unit_meets_that_of_the_mirror_image():
    model = Calls(lambda m, x: m.conv(x) + m.conv(x.flip(3)), conv=nn.Conv2d(1, 1, (9, 8), stride=2))
    assert receptive_field(model, (1, 9, 9)).before_pooling == (9, 9)  # 8 of 9 columns from the one and the other side
    model = Calls(lambda m, x: m.conv(x) + m.conv(x.flip(3)), conv=nn.Conv2d(1, 1, 32))
    assert receptive_field(model, (1, 32, 32)).before_pooling == (32, 32)


def test_units_of_an_upsampled_map_keep_their_fields_behind_a_flip():
    model = Calls(lambda m, x: m.up(m.conv(x)).flip(3), conv=nn.Conv2d(1, 1, 3), up=nn.ConvTranspose2d(1, 1, 3, 2))
    flow = trace_dataflow(model, (1, 12, 12))
    views = follow(flow)
    axis, plain = (views[operation.outputs[0]].axes[1] for operation in flow.operations[:-3:-1])
    assert [axis.field_of(unit) for unit in range(21)] == [plain.field_of(20 - unit) for unit in range(21)]
