import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from eva_utils import lr_range
from eva_utils.history import LrRange
from eva_utils.loaders import make_loader
from eva_utils.lr_range import find_lr
from eva_utils.models import build_network
from eva_utils.optimizers import Muon, decay_groups, muon_groups, one_cycle
from eva_utils.plots import plot_lr_range
from eva_utils.randomness import random_state
from eva_utils.runtime import seed_everything
from eva_utils.transforms import course_policy


@pytest.fixture
def quadratic():
    """A loss of 2(s - y)^2/3 for the sum s of three weights, y 0 and 1 in turns: above lr 0.5 descent diverges."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Flatten())
    nn.init.ones_(model[0].weight)
    loader = DataLoader(TensorDataset(torch.ones(8, 3, 1, 1), torch.arange(8) // 4), batch_size=4)
    return model, loader, lambda logits, labels: 2 * (logits[:, 0] - labels).pow(2).mean() / 3


def test_the_loss_falls_and_then_diverges_where_theory_says(quadratic):
    model, loader, loss_fn = quadratic
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    kind = {"loss_fn": loss_fn, "precision": "float32"}
    found = find_lr(model, loader, optimizer, start_lr=1e-3, end_lr=100, steps=200, **kind)
    assert len(found.lrs) == len(found.losses) < 200  # it ended early
    assert found.lrs[0] == pytest.approx(1e-3)
    assert found.lrs[1] / found.lrs[0] == pytest.approx((100 / 1e-3) ** (1 / 199))
    assert found.losses[60] < found.losses[0]
    assert found.lowest < found.lrs[-1]
    assert 0.05 < found.lowest < 0.7
    assert found.lrs[-1] > 0.3
    assert found.suggestion == pytest.approx(found.lowest / 10)


@pytest.mark.parametrize("fast", [True, False])
def test_everything_stays_as_it_was(shapes, fast):
    seed_everything(4)
    model = build_network("dilated_net").eval()
    optimizer = torch.optim.SGD(decay_groups(model, 1e-3), lr=0.1, momentum=0.9)
    scheduler = one_cycle(optimizer, 100)
    loader = make_loader(
        shapes, course_policy(), batch_size=16, shuffle=True, **({"fast": True} if fast else {"workers": 0})
    )
    loader.sampler.set_epoch(3, start=16)
    parts = (model, optimizer, scheduler)
    before = copy.deepcopy([part.state_dict() for part in parts]), random_state(), vars(loader.sampler).copy()
    find_lr(model, loader, optimizer, steps=12)
    after = [part.state_dict() for part in parts], random_state(), vars(loader.sampler)
    assert str(before[0]) == str(after[0])
    assert all(torch.equal(a, b) for a, b in zip(before[0][0].values(), after[0][0].values(), strict=True))
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    for name, generator in before[1].items():
        assert torch.equal(generator, after[1][name]) if name == "torch" else str(generator) == str(after[1][name])
    assert torch.equal(before[1]["numpy"][1], after[1]["numpy"][1])
    assert before[2] == after[2]


def test_a_loader_with_the_users_own_order_is_taken(quadratic):
    model, loader, loss_fn = quadratic
    ordered = DataLoader(loader.dataset, batch_size=loader.batch_size, sampler=list(range(len(loader.dataset))))
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    found = find_lr(model, ordered, sgd, loss_fn=loss_fn, precision="float32")
    assert found == find_lr(model, loader, sgd, loss_fn=loss_fn, precision="float32")


def test_a_plain_loader_draws_the_order_that_it_would_have(shapes):
    images = torch.randn(40, 3, 32, 32)
    labels = torch.arange(40) % 10
    orders = []
    for tried in (False, True):
        seed_everything(0)
        loader = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)
        model = build_network("dilated_net")
        if tried:
            find_lr(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), steps=7)
        orders.append(torch.cat([batch[1] for batch in loader]))
    assert torch.equal(*orders)


def test_groups_keep_the_ratio_of_their_rates(shapes, monkeypatch):
    model = build_network("dilated_net")
    optimizer = Muon(muon_groups(model, lr=0.05, sgd_lr=0.2, weight_decay=0, sgd_weight_decay=0))
    rates = []
    step = Muon.step
    monkeypatch.setattr(Muon, "step", lambda self: (rates.append([g["lr"] for g in self.param_groups]), step(self)))
    loader = make_loader(shapes, course_policy(), batch_size=16, fast=True)
    find_lr(model, loader, optimizer, start_lr=0.01, end_lr=1, steps=3)
    assert rates == [pytest.approx([lr, 4 * lr, 4 * lr]) for lr in (0.01, 0.1, 1)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"start_lr": 1, "end_lr": 0.1}, "expected 0 < start_lr < end_lr"),
        ({"start_lr": 0}, "expected 0 < start_lr < end_lr"),
        ({"start_lr": float("nan")}, "start_lr=nan"),
        ({"steps": 1}, "steps=1"),
        ({"precision": "half"}, "choose one of"),
    ],
)
def test_bad_ranges_are_refused(quadratic, arguments, says):
    model, loader, loss_fn = quadratic
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match=says):
        find_lr(model, loader, optimizer, loss_fn=loss_fn, **arguments)


def test_a_model_with_dilated_depthwise_convolutions_is_tried_in_float32(shapes, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    tried = []
    step = lr_range.train_step
    monkeypatch.setattr(
        lr_range, "train_step", lambda *a, **kinds: (tried.append(kinds["precision"]), step(*a, **kinds))[1]
    )
    depthwise = nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3)
    model = nn.Sequential(depthwise, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    optimizer, loader = torch.optim.SGD(model.parameters(), lr=0.1), make_loader(shapes, course_policy(), batch_size=16)
    find_lr(model, loader, optimizer, steps=3, device="cpu")
    assert tried == ["float32"] * 3
    with pytest.raises(
        ValueError,
        match="on a CPU torch can get the gradient of '0' wrong in it, a dilated convolution in groups; leave",
    ):
        find_lr(model, loader, optimizer, steps=3, device="cpu", precision="bfloat16")


def test_a_loss_that_is_never_finite_is_said(quadratic):
    model, loader, loss_fn = quadratic
    nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(ValueError, match="not finite at learning rate"):
        find_lr(model, loader, torch.optim.SGD(model.parameters(), lr=1.0), loss_fn=loss_fn, precision="float32")
    with pytest.raises(ValueError, match="has lr 0"):
        find_lr(model, loader, torch.optim.SGD(model.parameters(), lr=0.0), loss_fn=loss_fn)


def test_a_range_that_diverges_at_once_suggests_nothing(quadratic):
    model, loader, loss_fn = quadratic
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match=r"after one step at learning rate 1e\+30: choose a smaller start_lr="):
        find_lr(model, loader, sgd, start_lr=1e30, end_lr=1e31, loss_fn=loss_fn, precision="float32")


def test_what_does_not_belong_together_is_refused(shapes):
    model = build_network("dilated_net")
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    few = DataLoader(TensorDataset(torch.zeros(3, 3, 32, 32), torch.arange(3)), batch_size=4, drop_last=True)
    loader = make_loader(shapes, course_policy(), batch_size=16, fast=True)
    with pytest.raises(ValueError, match="gives no batches"):
        find_lr(model, few, sgd)
    with pytest.raises(ValueError, match="holds no parameter of this model"):
        find_lr(build_network("dilated_net"), loader, sgd)
    with pytest.raises(ValueError, match="optimizer is a NoneType"):
        find_lr(model, loader, None)
    small = build_network("dilated_net", num_classes=4)
    sgd = torch.optim.SGD(small.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="4 outputs for 10 classes"):
        find_lr(small, loader, sgd)


def test_float16_is_scaled_as_in_fit(shapes):
    """Gradients of a loss this small are 0 in float16 unless it is scaled."""
    model = build_network("dilated_net")
    loader = make_loader(shapes, course_policy(), batch_size=16, fast=True, device="cpu")
    settings = {"start_lr": 1e6, "end_lr": 1e8, "steps": 20, "device": "cpu", "loss_fn": tiny_cross_entropy}
    found = {
        precision: find_lr(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), precision=precision, **settings)
        for precision in ("float32", "float16")
    }
    assert found["float16"].losses == pytest.approx(found["float32"].losses, rel=0.1)


def tiny_cross_entropy(logits, labels):
    return 1e-7 * nn.functional.cross_entropy(logits, labels)


def test_losses_without_their_rates_are_refused():
    for lrs, losses in (((), ()), ((0.1, 1.0), (2.0,))):
        with pytest.raises(ValueError, match=f"{len(lrs)} lrs, {len(losses)} losses: expected one or more, as many of"):
            LrRange(lrs, losses)


def test_the_figure_marks_the_suggestion():
    figure = plot_lr_range(LrRange(lrs=(0.01, 0.1, 1.0, 10.0), losses=(2.0, 1.5, 1.0, 9.0)))
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["lowest loss: 1", "suggestion: 0.1"]
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].get_ylim()[1] == 4
