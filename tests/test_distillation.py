import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eva_utils.distillation import Distillation
from eva_utils.loaders import make_loader
from eva_utils.models import build_network
from eva_utils.runtime import seed_everything
from eva_utils.training import fit
from eva_utils.transforms import eval_policy


@pytest.fixture
def teacher():
    seed_everything(3)
    return build_network("dilated_net")


def test_the_targets_are_the_teachers_probabilities_at_the_temperature(teacher):
    images, labels = torch.randn(5, 3, 32, 32), torch.arange(5)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    same, probs = Distillation(teacher, temperature=2)(images, labels)
    assert same is images
    assert teacher.training  # it was, and is again
    assert not probs.requires_grad
    assert torch.equal(probs, (teacher.eval()(images).detach() / 2).softmax(dim=1))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_loss_is_least_where_the_student_says_the_same(teacher):
    distillation = Distillation(teacher, temperature=3)
    logits = torch.randn(4, 10)
    probs = (logits / 3).softmax(dim=1)
    entropy = -(probs * probs.log()).sum(dim=1).mean()
    assert distillation.loss(logits, probs).item() == pytest.approx(9 * entropy.item(), rel=1e-5)
    assert distillation.loss(logits + torch.randn(4, 10), probs) > 9 * entropy


def test_the_gradients_keep_their_size_at_any_temperature():
    """For small logits the gradient is about that of half the squared distance (Hinton et al. 2015, section 2.1)."""
    student, taught = 0.01 * torch.randn(1, 10).double(), 0.01 * torch.randn(1, 10).double()
    for temperature in (5.0, 50.0):
        logits = student.clone().requires_grad_()
        distillation = Distillation(torch.nn.Identity(), temperature=temperature)
        distillation.loss(logits, (taught / temperature).softmax(dim=1)).backward()
        difference = (student - taught) - (student - taught).mean()
        torch.testing.assert_close(logits.grad, difference / 10, rtol=0.02, atol=1e-6)


def test_a_student_comes_to_agree_with_its_teacher(shapes):
    """The teacher looks at the mean colour alone, which has little to do with the labels."""
    seed_everything(0)
    linear = nn.Linear(3, 10)
    nn.init.normal_(linear.weight, std=3)
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    loader = make_loader(shapes, eval_policy(), batch_size=20, shuffle=True, fast=True)
    distillation = Distillation(teacher, temperature=2)
    student = build_network("dilated_separable_net")
    images, _ = next(iter(loader))
    taught = teacher(images).softmax(dim=1)

    def distance():
        return F.kl_div(student.eval()(images).log_softmax(dim=1), taught, reduction="batchmean").item()

    before = distance()
    fit(
        student,
        loader,
        loader,
        epochs=30,
        verbose=False,
        precision="float32",
        batch_transform=distillation,
        loss_fn=distillation.loss,
    )
    assert distance() < before / 2


def test_the_loss_without_the_teacher_is_refused(teacher, shapes):
    loader = make_loader(shapes, eval_policy(), batch_size=20, fast=True)
    with pytest.raises(ValueError, match="hand the distillation in as batch_transform= too"):
        fit(teacher, loader, loader, epochs=1, verbose=False, loss_fn=Distillation(teacher).loss)


def test_the_teacher_without_its_loss_is_refused(teacher, shapes):
    loader = make_loader(shapes, eval_policy(), batch_size=20, fast=True)
    with pytest.raises(ValueError, match=r"batch_transform is a Distillation.* hand in its \.loss as loss_fn= too"):
        fit(teacher, loader, loader, epochs=1, verbose=False, batch_transform=Distillation(teacher))


def test_a_frozen_layer_of_the_teacher_stays_frozen(teacher):
    frozen = next(module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    Distillation(teacher)(torch.randn(2, 3, 32, 32), torch.arange(2))
    assert teacher.training
    assert not frozen.training


def test_another_teacher_makes_another_run(teacher, shapes, tmp_path):
    loader = make_loader(shapes, eval_policy(), batch_size=20, fast=True)

    def train(distillation):
        seed_everything(0)
        student = build_network("dilated_net")
        kept = {"epochs": 1, "verbose": False, "checkpoint": tmp_path / "a.pt"}
        return fit(student, loader, loader, batch_transform=distillation, loss_fn=distillation.loss, **kept)

    assert len(train(Distillation(teacher))) == 1
    with pytest.raises(ValueError, match="its batch transform was Distillation"):
        train(Distillation(teacher, temperature=2))
    with torch.no_grad():
        next(teacher.parameters()).add_(1)
    with pytest.raises(ValueError, match="its batch transform was Distillation"):
        train(Distillation(teacher))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"temperature": 0}, "expected more than 0"), ({"temperature": -1}, "temperature=-1: expected a number from 0")],
)
def test_bad_settings_are_refused(teacher, arguments, says):
    with pytest.raises(ValueError, match=says):
        Distillation(teacher, **arguments)
    with pytest.raises(ValueError, match="expected a trained network"):
        Distillation("a name")
