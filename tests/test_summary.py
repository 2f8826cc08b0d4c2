from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from eva_utils.models import NETWORKS, build_network
from eva_utils.receptive_field import receptive_field as compute
from eva_utils.summary import summary

TABLES = Path(__file__).parent / "tables"  # as the networks were published with


@pytest.mark.parametrize("name", ["dilated_net", "dilated_separable_net"])
def test_the_table_is_the_published_one_character_for_character(name, capsys):
    returned = summary(build_network(name))
    assert returned == (TABLES / f"{name}.txt").read_text()
    assert capsys.readouterr().out == returned


@pytest.mark.parametrize("name", NETWORKS)
def test_the_total_is_that_of_all_parameters(name):
    model = build_network(name)
    count = sum(p.numel() for p in model.parameters())
    assert summary(model).splitlines()[-9] == f"Total params: {count:,}"


def test_parameters_that_torchsummary_does_not_see_are_told():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    model[1].scale = nn.Parameter(torch.ones(7))
    assert summary(model).splitlines()[-1].startswith("The model has 23 parameters: some are no layer's weight or bias")
    shared = nn.Conv2d(3, 3, 1)
    assert "The model has 12 parameters: some" in summary(nn.Sequential(shared, nn.ReLU(), shared))
    assert "The model has" not in summary(nn.Sequential(nn.Conv2d(3, 3, 1)))


def test_the_model_and_the_random_state_stay_as_they_were():
    model = build_network("dilated_net").train()
    model.layers[3].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    summary(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failure_leaves_nothing_behind(capsys):
    model = build_network("dilated_net")
    with pytest.raises(RuntimeError, match="channels"):
        summary(model, (4, 32, 32))
    assert not any(module._forward_hooks for module in model.modules())
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    print("still printing")
    assert capsys.readouterr().out == "still printing\n"


@pytest.mark.parametrize("change", [nn.Module.half, lambda model: model.to(memory_format=torch.channels_last)])
def test_precision_and_layout_do_not_matter(change):
    assert summary(change(build_network("dilated_net"))) == summary(build_network("dilated_net"))


def test_other_input_sizes():
    assert "[-1, 4, 5, 7]" in summary(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1)), (1, 5, 7))


@pytest.mark.parametrize(("name", "last"), [("dilated_net", "139"), ("dilated_separable_net", "83")])
def test_the_receptive_field_is_one_more_column(name, last):
    plain = summary(build_network(name)).splitlines()
    wide = summary(build_network(name), receptive_field=True).splitlines()
    assert len(plain) == len(wide)
    rows = [line for line in wide if "[-1," in line]
    assert rows[0].split()[-1] == "3"
    assert rows[-1].split()[-1] == last
    for narrow, line in zip(plain, wide, strict=True):
        assert line.startswith(narrow.rstrip())


class Halves(nn.Module):
    def forward(self, x):
        return x.chunk(2, dim=1)


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.halves, self.last = nn.Conv2d(3, 4, 3), Halves(), nn.Conv2d(2, 2, 5)

    def forward(self, x):
        return self.last(self.halves(self.first(x))[0])


def test_modules_that_return_several_tensors_keep_their_row():
    rows = [line for line in summary(Half(), receptive_field=True).splitlines() if "[" in line]
    assert [line.split()[-1] for line in rows] == ["3", "3", "7"]


def test_a_module_that_others_share_has_a_row_for_each_as_in_torchsummary():
    relu = nn.ReLU()

    class Block(nn.Module):
        def __init__(self, kernel_size):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, kernel_size), relu

        def forward(self, x):
            return self.relu(self.conv(x))

    rows = [
        line for line in summary(nn.Sequential(Block(3), Block(5)), receptive_field=True).splitlines() if "[" in line
    ]
    assert [line.split()[-1] for line in rows if "Conv2d" in line] == ["3", "7"]
    assert [line.split()[-1] for line in rows if "Block" in line] == ["3", "7"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet", "convnext_tiny"])
def test_networks_that_nobody_here_wrote_have_the_column_too(name):
    arguments = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **arguments)
    rows = [line for line in summary(model, (3, 96, 96), receptive_field=True).splitlines() if "[-1," in line]
    fields = {row.name: row.receptive_field[0] for row in compute(model, (3, 96, 96)).rows}
    assert rows[0].split()[-1] == str(next(iter(fields.values())))
    assert rows[-1].split()[-1] == str(compute(model, (3, 96, 96)).after_pooling[0])
