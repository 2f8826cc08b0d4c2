import numpy as np
import pytest
import torch
from torch import nn

from eva_utils.models import build_network
from eva_utils.optimizers import Muon, decay_groups, muon_groups, one_cycle, orthogonalize


def same_parameters(groups, model):
    grouped = [id(p) for group in groups for p in group["params"]]
    return sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_decay_groups_spare_biases_and_normalisations():
    model = build_network("dilated_separable_net")
    groups = decay_groups(model, 0.1)
    assert same_parameters(groups, model)
    assert {p.ndim for p in groups[0]["params"]} == {4}
    assert {p.ndim for p in groups[1]["params"]} == {1}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_muon_groups_orthogonalise_what_mixes_channels_but_the_first_layer():
    model = build_network("dilated_separable_net")
    groups = muon_groups(model, lr=1, sgd_lr=2, weight_decay=3, sgd_weight_decay=4)
    assert same_parameters(groups, model)
    matrices, others, vectors = groups
    assert [tuple(p.shape) for p in others["params"]] == [(16, 3, 3, 3), (32, 1, 3, 3)]
    assert all(p.shape[1] > 1 for p in matrices["params"])
    assert [(g["lr"], g["weight_decay"], g["orthogonal"]) for g in groups] == [
        (1, 3, True),
        (2, 4, False),
        (2, 0, False),
    ]
    assert {p.ndim for p in vectors["params"]} == {1}


def test_scales_of_channels_do_not_decay_and_the_first_weight_may_come_late():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=8), nn.Conv2d(8, 4, 1))
    model.scale = nn.Parameter(torch.ones(4, 1, 1))
    _, first, scale, last = (module.weight for module in model)
    weights, rest = (group["params"] for group in decay_groups(model, 0.1))
    assert [id(p) for p in weights] == [id(first), id(last)]
    assert {id(model.scale), id(scale)} < {id(p) for p in rest}
    groups = muon_groups(model, lr=1, sgd_lr=2, weight_decay=3, sgd_weight_decay=4)
    assert same_parameters(groups, model)
    assert [[id(p) for p in group["params"]] for group in groups[:2]] == [[id(last)], [id(first)]]


@pytest.mark.parametrize("shape", [(16, 144), (64, 32), (10, 10)])
def test_orthogonalize_levels_the_singular_values(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix)
    assert ((u.T @ result @ v.T).diagonal() > 0).all()  # the same directions, the same signs
    assert torch.linalg.svdvals(result).min() > 0.3
    assert torch.linalg.svdvals(result).max() < 1.3
    assert orthogonalize(torch.zeros(shape)).abs().max() == 0
    several = torch.stack([matrix, 3 * matrix.flip(0), torch.zeros(shape)])
    for one, of_several in zip(several, orthogonalize(several), strict=True):
        torch.testing.assert_close(of_several, orthogonalize(one))


def test_muon_on_matrices_equals_torchs_own():
    """torch.optim.Muon iterates in bfloat16, so the two agree to its rounding only."""
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(24, 16, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    inputs, targets = torch.randn(64, 24), torch.randn(64, 16)
    group = {"params": ours.parameters(), "weight_decay": 0.1}
    for layer, optimizer in (
        (ours, Muon([group], lr=0.02, momentum=0.95)),
        (theirs, torch.optim.Muon(theirs.parameters(), lr=0.02, momentum=0.95, weight_decay=0.1)),
    ):
        for _ in range(10):
            optimizer.zero_grad()
            (layer(inputs) - targets).square().mean().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=0.01)
    assert (ours.weight - theirs.weight).abs().mean() < 0.002


def test_its_other_group_is_torchs_sgd():
    torch.manual_seed(0)
    ours, theirs = (nn.Conv2d(3, 4, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(8, 3, 9, 9)
    group = {"params": ours.parameters(), "weight_decay": 0.01, "orthogonal": False}
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.6, weight_decay=0.01, nesterov=True)
    for layer, optimizer in ((ours, Muon([group], lr=0.1, momentum=0.6)), (theirs, sgd)):
        for _ in range(5):
            optimizer.zero_grad()
            layer(images).square().mean().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_a_step_returns_the_loss_of_its_closure():
    torch.manual_seed(0)
    layer, images = nn.Linear(4, 3, bias=False), torch.randn(5, 4)
    optimizer, before = Muon(layer.parameters(), lr=0.1), layer.weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = layer(images).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx((images @ before.T).square().mean().item())
    assert not torch.equal(layer.weight, before)


def test_muon_refuses_what_it_cannot_step_by():
    model = build_network("dilated_separable_net")
    with pytest.raises(ValueError, match=r"a parameter \(16,\) is no matrix: hand in muon_groups\(model, \.\.\.\)"):
        Muon(model.parameters())
    with pytest.raises(ValueError, match="momentum=1: expected a share below 1"):
        Muon(nn.Linear(2, 2, bias=False).parameters(), momentum=1)
    with pytest.raises(ValueError, match="weight_decay=-1: expected a number from 0"):
        decay_groups(model, -1)


@pytest.mark.parametrize("name", ["lr", "sgd_lr", "weight_decay", "sgd_weight_decay"])
def test_muon_groups_of_rates_below_0_are_refused(name):
    rates = {"lr": 0.05, "sgd_lr": 0.2, "weight_decay": 0.01, "sgd_weight_decay": 0}
    with pytest.raises(ValueError, match=f"^{name}=-1: expected a number from 0"):
        muon_groups(build_network("dilated_net"), **rates | {name: -1})


def test_a_second_schedule_on_one_optimizer_is_refused():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    one_cycle(optimizer, 10)
    with pytest.raises(ValueError, match=r"has had a schedule, .*: make the optimizer anew"):
        one_cycle(optimizer, 10)


def test_one_cycle_rises_from_each_groups_lr_and_falls_to_nought():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 1.0)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    scheduler = one_cycle(optimizer, 100, warmup=0.2)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    first, second = zip(*rates, strict=True)
    assert max(first) == pytest.approx(0.1)
    assert max(second) == pytest.approx(1.0)
    assert first.index(max(first)) == 19
    assert first[0] == pytest.approx(0.1 / 25)
    assert 0 <= first[-1] < 1e-6
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_one_cycle_ends_at_the_final_share_of_the_highest():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = one_cycle(optimizer, 50, warmup=0.2, final=0.3)
    for _ in range(49):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.03)


def test_short_schedules_work_or_are_refused():
    for total, warmup in ((1, 0.1), (2, 0.1), (3, 0.0), (5, 0.2), (10, 0.1), (np.int64(10), np.float32(0.1))):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler = one_cycle(optimizer, total, warmup=warmup)
        for _ in range(total):
            optimizer.step()
            scheduler.step()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="total_steps=0: expected 1 or more"):
        one_cycle(optimizer, 0)
    with pytest.raises(ValueError, match="warmup=1: expected a share of the steps"):
        one_cycle(optimizer, 10, warmup=1)
    with pytest.raises(ValueError, match="final=2: expected a number from 0 to 1"):
        one_cycle(optimizer, 10, final=2)
