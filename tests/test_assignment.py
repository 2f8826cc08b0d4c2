import albumentations as A
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from eva_utils.assignment import check_assignment
from eva_utils.models import build_network
from eva_utils.recipes import RECIPES
from eva_utils.transforms import CIFAR10_MEAN, course_policy, crop_policy

OPEN = ("test accuracy", "horizontal flip", "shift, scale, rotate", "coarse dropout", "to grey")


def separable(channels, out_channels, between=()):
    return [
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        *between,
        nn.Conv2d(channels, out_channels, 1),
    ]


BETWEEN = (nn.BatchNorm2d(16), nn.ReLU())


def network(*, width=16, dilation=3, separables=2, between=BETWEEN, body=(), head=None):
    """A network that passes the bonus tier unless an argument breaks a clause."""
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(5):
        layers += [nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), *body]
    layers += [
        nn.Conv2d(width, width, 3, padding=1),
        nn.Conv2d(width, width, 3, padding=1),
        nn.Conv2d(width, 16, 5, padding=2),
    ]
    for _ in range(separables):
        layers += separable(16, 16, between)
    head = head or [nn.Conv2d(16, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head)


def policy(*, flip=0.5, affine=0.5, dropout=0.5, grey=0.1, **arguments):
    return course_policy(flip=flip, affine=affine, dropout=dropout, grey=grey, **arguments)


def broken(model, tier="bonus", accuracy=0.9, transform=None, **arguments):
    check = check_assignment(model, accuracy, transform or policy(), tier, **arguments)
    return [clause.name for clause in check.clauses if clause.passed is False]


def test_a_network_that_meets_all_clauses_passes_both_tiers(capsys):
    for tier in ("standard", "bonus"):
        check = check_assignment(network(), 0.9, policy(), tier)
        assert check.passed is True
        assert capsys.readouterr().out == f"{check}\n"
        assert f"{tier} tier: passed" in str(check)


@pytest.mark.parametrize(
    ("arguments", "clauses"),
    [
        ({"width": 48}, ["parameters"]),
        ({"dilation": 2}, ["receptive field before pooling"]),
        ({"separables": 1}, ["depthwise separable convolution"]),
        ({"between": (nn.Conv2d(16, 16, 1, groups=16),)}, ["depthwise separable convolution"]),
        ({"between": (nn.AvgPool2d(3, 1, 1),)}, ["depthwise separable convolution"]),
        ({"body": [nn.MaxPool2d(2)]}, ["no max pooling"]),
        ({"head": [nn.AdaptiveMaxPool2d(1), nn.Conv2d(16, 10, 1)]}, ["no max pooling", "global average pooling"]),
        ({"head": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]}, ["no fully connected layer"]),
        (
            {"head": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10), nn.Conv1d(10, 10, 1)][:3]},
            ["no fully connected layer"],
        ),
        ({"head": [nn.Conv2d(16, 10, 16)]}, ["global average pooling"]),
        (
            {"head": [nn.Conv2d(16, 1, 1), nn.Flatten(), nn.Linear(256, 10)]},
            ["global average pooling", "no fully connected layer"],
        ),
    ],
)
def test_each_clause_that_a_network_breaks_is_named(arguments, clauses):
    assert broken(network(**arguments)) == clauses


def test_without_dilation_the_clause_and_the_field_are_broken():
    assert "dilated convolution" in broken(network(dilation=1))


def test_a_large_field_without_dilation_breaks_that_clause_alone():
    wide = nn.Conv2d(16, 16, 31, padding=15, groups=16)
    assert broken(network(dilation=1, body=[wide])) == ["dilated convolution"]


def test_counting_the_pooling_is_the_looser_reading():
    check = check_assignment(network(dilation=2), 0.9, policy(), "bonus")
    before, after = check.clauses[2:4]
    assert (before.passed, after.passed) == (False, True)
    assert "looser" in after.where
    assert check.passed is False


@pytest.mark.parametrize(
    ("transform", "clause"),
    [
        (policy(flip=0), "horizontal flip"),
        (policy(affine=0), "shift, scale, rotate"),
        (policy(rotate=0), "shift, scale, rotate"),
        (policy(shift=0), "shift, scale, rotate"),
        (policy(scale=0), "shift, scale, rotate"),
        (policy(dropout=0), "coarse dropout"),
        (policy(hole=8), "coarse dropout"),
        (policy(mean=(0, 0, 0)), "coarse dropout"),  # a black hole
        (policy(grey=0), "to grey"),
        (A.Compose([policy(), A.Sequential([A.ToGray(p=1)], p=0)]), None),
    ],
)
def test_each_augmentation_that_is_missing_is_named(transform, clause):
    assert broken(network(), transform=transform) == ([clause] if clause else [])


def test_a_black_hole_is_not_of_the_mean():
    hole = A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(16, 16), fill=0, p=1)
    transform = A.Compose(
        [A.HorizontalFlip(), A.Affine(translate_percent=0.1, scale=(0.9, 1.1), rotate=5), hole, A.ToGray()]
    )
    assert broken(network(), transform=transform) == ["coarse dropout"]


def test_an_accuracy_may_be_numpys():
    assert broken(network(), accuracy=np.float32(0.88)) == []


def test_accuracy_and_policy_stay_open_where_they_are_not_given():
    check = check_assignment(network(), tier="bonus")
    assert tuple(clause.name for clause in check.clauses if clause.passed is None) == OPEN
    assert check.passed is None
    assert broken(network(), accuracy=0.86) == ["test accuracy"]


class Tricks(nn.Module):
    """Functions of the map within an honest network."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("hidden", torch.ones(16, 16, 19, 19))

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("function", "clause"),
    [
        (lambda m, x: F.max_pool2d(x, 2), "no max pooling"),
        (lambda m, x: torch.maximum(x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]), "no max pooling"),
        (lambda m, x: F.conv2d(x, m.hidden, padding=9), "parameters"),
    ],
)
def test_tricks_of_the_program_are_seen(function, clause):
    assert broken(network(body=[Tricks(function)])) == [clause]


@pytest.mark.parametrize(
    ("head", "clauses"),
    [
        (
            [Tricks(lambda m, x: x.mean(3).flatten(1)), nn.Linear(256, 10)],
            ["global average pooling", "no fully connected layer"],
        ),
        ([Tricks(lambda m, x: -((-x).amin((2, 3))))], ["no max pooling", "global average pooling"]),
        ([Tricks(lambda m, x: x.mean((2, 3)) + x.flatten(2).logsumexp(-1))], ["global average pooling"]),
        ([Tricks(lambda m, x: x.sum((2, 3)) / 256)], []),
        ([nn.MaxPool2d(1), nn.AdaptiveAvgPool2d(1)], []),
        ([Tricks(lambda m, x: torch.einsum("nchw,oc->nohw", x, torch.ones(10, 16))), nn.AdaptiveAvgPool2d(1)], []),
    ],
)
def test_heads_are_judged_by_what_they_do(head, clauses):
    assert broken(network(head=head)) == clauses


def test_a_pooling_in_disguise_is_not_counted_before_the_pooling():
    head = [nn.Conv2d(16, 10, 1), nn.AvgPool2d(15, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    assert broken(network(dilation=2, head=head)) == ["receptive field before pooling"]


def test_a_field_of_padding_is_not_a_field():
    body = [nn.Conv2d(16, 16, 3, padding=100, dilation=100)]
    assert "receptive field before pooling" in broken(network(body=body))


def test_weights_that_are_not_registered_count():
    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(40)]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    check = check_assignment(network(body=[Hides()]), 0.9, policy(), "bonus")
    assert check.clauses[1].passed is False
    assert "92,160 of them are weights that are no parameters" in check.clauses[1].where


@pytest.mark.parametrize(
    "between",
    [
        (Tricks(lambda m, x: x * torch.sigmoid(x)),),
        (nn.BatchNorm2d(16), Tricks(lambda m, x: x * F.relu6(x + 3) / 6)),
        (Tricks(lambda m, x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)),),
        (nn.Hardswish(), nn.GroupNorm(2, 16)),
    ],
)
def test_activations_and_normalisations_of_ones_own_may_stand_between(between):
    assert broken(network(between=between)) == []


@pytest.mark.parametrize(
    ("steps", "missing"),
    [
        ([A.Affine(translate_percent=0.1), A.Affine(scale=(0.9, 1.1)), A.Rotate(10)], []),
        ([A.Affine(translate_px=3, rotate=5, scale=(1, 1))], ["shift, scale, rotate"]),
        ([A.SomeOf([A.Affine(translate_percent=0.1, scale=(0.9, 1.1), rotate=5)], n=0)], ["shift, scale, rotate"]),
    ],
)
def test_shift_scale_and_rotate_may_be_several_steps(steps, missing):
    hole = A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(16, 16), fill=0, p=1)
    transform = A.Compose([A.HorizontalFlip(), *steps, A.ToGray(), A.Normalize(), hole])  # 0 is the mean, after it
    assert broken(network(), transform=transform) == missing


def test_layers_that_the_output_does_not_need_do_not_count():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = network(separables=1)
            self.idle = nn.Sequential(*separable(3, 3))

        def forward(self, x):
            self.idle(x)
            return self.used(x)

    assert broken(Idle()) == ["depthwise separable convolution"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 1, dilation=2),  # one tap: nothing to spread
        nn.Conv2d(16, 16, 3, padding=16, dilation=16),  # all other taps lie in the padding
    ],
)
def test_a_dilation_without_effect_does_not_count(layer):
    assert "dilated convolution" in broken(network(dilation=1, body=[layer]))


def test_a_convolution_of_a_single_channel_is_not_depthwise():
    head = [nn.Conv2d(16, 1, 1), *separable(1, 10), nn.AdaptiveAvgPool2d(1)]
    assert broken(network(separables=1, head=head)) == ["depthwise separable convolution"]


def test_networks_that_nobody_here_wrote():
    check = check_assignment(torchvision.models.mobilenet_v2(weights=None), input_size=(3, 224, 224))
    found = {clause.name: clause for clause in check.clauses}
    assert found["depthwise separable convolution"].found == "17"
    assert found["global average pooling"].passed
    assert not found["dilated convolution"].passed
    check = check_assignment(torchvision.models.convnext_tiny(weights=None), input_size=(3, 224, 224))
    assert {c.name: c.found for c in check.clauses}["depthwise separable convolution"] == "18"  # by linear layers
    check = check_assignment(torchvision.models.resnet18(weights=None), input_size=(3, 224, 224))
    assert {c.name: c.where for c in check.clauses}["no max pooling"] == "maxpool"


def test_what_cannot_be_judged_stays_open_and_says_why():
    check = check_assignment(nn.Sequential(network(), Tricks(lambda m, x: torch.roll(x, 1, 1))), 0.9, policy())
    before = check.clauses[2]
    assert (before.found, before.passed) == ("cannot tell", None)
    assert "roll" in before.where
    assert check.passed is not True


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        *(("small_residual_net", "bonus"), ("residual_net", "standard")),
        *(("small_mirror_net", "bonus"), ("mirror_net", "standard"), ("small_gated_mirror_net", "bonus")),
    ],
)
def test_our_own_networks_and_their_policy_meet_every_clause(name, tier):
    assert broken(build_network(name), tier, 0.9, RECIPES[name]["policy"]()) == []


def test_of_many_gates_the_table_names_the_first():
    (clause,) = (c for c in check_assignment(build_network("residual_net")).clauses if "map also gets in" in c.where)
    first = "layers.2.body.3.avgpool (AdaptiveAvgPool2d)"
    assert (clause.name, clause.passed) == ("receptive field before pooling", True)
    assert clause.where == f"the whole map also gets in through {first} and 4 more"


def test_the_series_networks():
    assert broken(build_network("dilated_net"), accuracy=0.86, tier="standard") == []
    second = broken(build_network("dilated_separable_net"), accuracy=0.89, transform=crop_policy(), tier="standard")
    assert second == ["shift, scale, rotate"]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"tier": "gold"}, "choose one of standard, bonus"), ({"accuracy": 88}, "from 0 to 1")]
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_assignment(network(), **arguments)


def test_another_datasets_mean_can_be_given():
    mean = (0.5, 0.4, 0.3)
    assert mean != CIFAR10_MEAN
    assert broken(network(), transform=policy(mean=mean)) == ["coarse dropout"]
    assert broken(network(), transform=policy(mean=mean), mean=mean) == []


@pytest.mark.parametrize(("tier", "accuracy"), [("standard", 0.85), ("bonus", 0.87)])
def test_the_accuracy_asked_for_is_enough_and_less_is_not(tier, accuracy):
    assert broken(network(), tier, accuracy) == []
    assert broken(network(), tier, accuracy - 0.0001) == ["test accuracy"]


@pytest.mark.parametrize(("tier", "limit"), [("standard", 200_000), ("bonus", 100_000)])
def test_parameters_have_to_be_fewer_than_the_limit(tier, limit):
    model = network()
    model.register_parameter("more", nn.Parameter(torch.zeros(limit - 1 - sum(p.numel() for p in model.parameters()))))
    assert broken(model, tier) == []
    model.register_parameter("one", nn.Parameter(torch.zeros(1)))
    assert broken(model, tier) == ["parameters"]


@pytest.mark.parametrize(("tier", "field"), [("standard", 44), ("bonus", 52)])
def test_the_field_has_to_be_larger_than_the_limit(tier, field):
    def build(size):
        wide = nn.Conv2d(16, 16, size - 8, padding=(size - 8) // 2, groups=16)
        dilated = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        layers = [nn.Conv2d(3, 16, 1), wide, dilated, *separable(16, 16), *separable(16, 10)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert broken(build(field + 1), tier) == []
    assert broken(build(field), tier) == ["receptive field before pooling"]


@pytest.mark.parametrize("dims", [(), (3,), (2, 3)])
def test_a_linear_layer_behind_a_flip_is_pointwise_still(dims):
    class Flipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
            self.linear, self.last = nn.Linear(8, 16), nn.Conv2d(16, 10, 1)

        def forward(self, x):
            x = self.depthwise(self.first(x.flip(dims) if dims else x))
            x = self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.last(x.mean((2, 3), keepdim=True)).flatten(1)

    found = {clause.name: clause.found for clause in check_assignment(Flipped()).clauses}
    assert found["depthwise separable convolution"] == "1"
