"""Trainings that are cut at any moment and go on to the same bits."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from eva_utils.checkpoint import load_checkpoint, on_drive, previous_checkpoint, save_checkpoint
from eva_utils.loaders import make_loader
from eva_utils.models import build_network
from eva_utils.models.blocks import conv_relu_norm, start_at_identity
from eva_utils.optimizers import one_cycle
from eva_utils.resume import _differing
from eva_utils.runtime import seed_everything
from eva_utils.training import evaluate, fit
from eva_utils.transforms import CIFAR10_STD, course_policy, eval_policy

pytestmark = pytest.mark.usefixtures("interruptible")

# Trains in a process of its own, again and again, each time killed after a while, until one gets to the end.
KILLED = """
import json, os, random, signal, sys, time
import torch
import eva_utils as eva
from eva_utils.shapes import SHAPE_CLASSES, draw_shapes

torch.set_num_threads(1)
folder, loading, kills = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
images = eva.ImageSet(*draw_shapes(200, seed=5), SHAPE_CLASSES, "shapes")

def train(path):
    eva.seed_everything(3)
    model = torch.nn.Sequential(torch.nn.Dropout(0.1), eva.build_network("dilated_net"))
    train = eva.make_loader(images, eva.course_policy(), batch_size=16, shuffle=True, **loading)
    test = eva.make_loader(images, eva.eval_policy(), batch_size=100, workers=0)
    optimizer = torch.optim.SGD(eva.decay_groups(model, 5e-4), lr=0.04, momentum=0.9)
    scheduler = eva.one_cycle(optimizer, 3 * len(train))
    history = eva.fit(model, train, test, epochs=3, optimizer=optimizer, scheduler=scheduler, device="cpu",
                      ema_decay=0.9, checkpoint=path, save_minutes=0, verbose=False)
    logits = eva.predict(model, test).logits
    torch.save({"weights": model.state_dict(), "history": vars(history), "logits": logits}, path + ".part")
    os.replace(path + ".part", path + ".result")  # whole or not there: a kill may come while it is written

def attempt(path, seconds):
    child = os.fork()
    if child == 0:
        try:
            train(path)
        finally:
            os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

attempt(os.path.join(folder, "whole.pt"), 600)
random.seed(sys.argv[2])
cut, done = os.path.join(folder, "cut.pt"), 0
while not os.path.exists(cut + ".result"):
    attempt(cut, random.uniform(0.05, 1.2) if done < kills else 600)
    done += 1
print(json.dumps(done - 1))
"""


@pytest.mark.parametrize("loading", [{"workers": 0}, {"workers": 2}, {"fast": True, "device": "cpu"}], ids=str)
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path, loading):
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), json.dumps(loading), "25"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) >= 1, "no run was killed"
    whole, cut = (torch.load(tmp_path / f"{name}.pt.result", weights_only=True) for name in ("whole", "cut"))
    for name, value in whole["weights"].items():
        assert torch.equal(value, cut["weights"][name]), name
    assert torch.equal(whole["logits"], cut["logits"])
    for name, values in whole["history"].items():
        assert "second" in name or values == cut["history"][name], name
    assert not [*tmp_path.glob("*.link")]


@pytest.fixture
def run(shapes):
    """A function that trains from the same start; its loss function may be replaced."""

    def train(path, *, loss_fn=F.cross_entropy, lr=0.04, epochs=2, **arguments):
        seed_everything(3)
        model = build_network("dilated_net")
        loaders = [
            make_loader(shapes, course_policy(), batch_size=16, shuffle=True, workers=0),
            make_loader(shapes, eval_policy(), batch_size=30, workers=0),
        ]
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        scheduler = one_cycle(optimizer, 2 * len(loaders[0]))
        settings = {"optimizer": optimizer, "scheduler": scheduler, "loss_fn": loss_fn, "device": "cpu"}
        history = fit(model, *loaders, epochs=epochs, checkpoint=path, **settings, **arguments)
        return model.state_dict(), history

    return train


def at_call(number, action):
    """Cross entropy that does something at one of its calls."""
    calls = []

    @functools.wraps(F.cross_entropy)
    def loss_fn(logits, labels):
        calls.append(1)
        if len(calls) == number:
            action()
        return F.cross_entropy(logits, labels)

    return loss_fn


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_an_interruption_saves_and_the_same_call_goes_on(run, tmp_path, capsys):
    expected, whole = run(None)
    path = tmp_path / "run.pt"
    _, history = run(path, loss_fn=at_call(6, lambda: signal.raise_signal(signal.SIGINT)))
    assert len(history) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "stopped in epoch 2 after batch 2: run it again to go on"
    weights, resumed = run(path)
    assert equal(weights, expected)
    assert resumed.test_loss == whole.test_loss
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interruption_without_a_checkpoint_returns_what_there_is(run, capsys):
    _, history = run(None, loss_fn=at_call(6, lambda: signal.raise_signal(signal.SIGINT)))
    assert len(history) == 1
    assert "without a checkpoint it cannot go on" in capsys.readouterr().out


def test_a_second_interruption_stops_at_once(run):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(None, loss_fn=at_call(2, twice))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_good_state(run, tmp_path):
    calls = []

    def loss_fn(logits, labels):
        calls.append(1)
        return F.cross_entropy(logits, labels) * (float("nan") if len(calls) == 6 else 1)

    path = tmp_path / "run.pt"
    with pytest.raises(FloatingPointError, match=r"since step 2 of epoch 2, at learning rate \d\.\d\de-\d\d: lower"):
        run(path, loss_fn=loss_fn, save_minutes=0)
    assert len(calls) == 6
    state = load_checkpoint(path)
    assert state["epoch"]["steps"] == 1
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_damaged_file_is_passed_over_for_the_one_before_it(run, tmp_path, capsys):
    expected, _ = run(None)
    path = tmp_path / "run.pt"
    run(path, loss_fn=at_call(6, lambda: signal.raise_signal(signal.SIGINT)), save_minutes=0)
    path.write_bytes(path.read_bytes()[:5000])
    capsys.readouterr()
    weights, _ = run(path)
    assert "going on from the file before it" in capsys.readouterr().out
    assert equal(weights, expected)


def test_with_no_file_left_the_error_names_both(run, tmp_path):
    path = tmp_path / "run.pt"
    run(path)
    for file in (path, previous_checkpoint(path)):
        file.write_bytes(b"no")
    with pytest.raises(ValueError, match=r"(?s)run\.pt' is no readable .*run\.pt\.previous' is no readable"):
        run(path)
    assert len(run(path, restart=True)[1]) == 2


def test_of_long_descriptions_only_what_differs_is_named():
    many = " ".join(f"'word{number}': {number}," for number in range(40))
    before, now = _differing(many, many.replace("'word7': 7,", "'word7': 8,"))
    assert (before, now) == ("'word6': 6, 'word7': 7,", "'word6': 6, 'word7': 8,")
    assert _differing("seed 0", "seed 1") == ("seed 0", "seed 1")
    assert _differing(many, "None") == (many, "None")


def test_restart_leaves_the_other_run_as_the_previous_file(run, tmp_path):
    path = tmp_path / "run.pt"
    run(path)
    with pytest.raises(ValueError, match=r"its optimizer was .*: say restart=True to start afresh"):
        run(path, lr=0.01)
    _, history = run(path, lr=0.01, epochs=1, restart=True)
    assert len(history) == 1
    assert len(load_checkpoint(previous_checkpoint(path))["history"]["lr"]) == 2


def test_a_place_that_cannot_be_written_is_said_before_anything_is_trained(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot keep checkpoints in '.*file' \(.*\): name another file"):
        run(tmp_path / "file" / "run.pt", loss_fn=at_call(1, lambda: pytest.fail("trained")))


def test_a_full_disk_costs_neither_the_run_nor_the_last_file(run, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1800k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        run(disk / "run.pt", epochs=1)
        (disk / "filler").write_bytes(bytes(800_000))
        _, history = run(disk / "run.pt")
        assert len(history) == 2
        assert "could not save" in capsys.readouterr().out
        assert len(load_checkpoint(disk / "run.pt")["history"]["lr"]) == 1
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "run.pt"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_drive_says_how_to_mount_it():
    with pytest.raises(FileNotFoundError, match=r"not mounted at /content/drive/MyDrive: in Colab run `from google"):
        on_drive("run.pt")


def test_drive_is_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr("eva_utils.checkpoint.DRIVE", tmp_path)
    assert on_drive("run.pt") == Path(tmp_path, "eva_utils", "run.pt")


def test_the_good_file_outlives_a_damaged_one_beside_it(run, tmp_path):
    path = tmp_path / "run.pt"
    run(path, epochs=1, verbose=False)
    run(path, verbose=False)
    good = previous_checkpoint(path).read_bytes()
    path.write_bytes(b"cut")
    run(path, epochs=1, verbose=False)
    assert path.with_name("run.pt.damaged").read_bytes() == b"cut"
    assert good in (path.read_bytes() if path.exists() else b"", previous_checkpoint(path).read_bytes())


def test_an_interruption_while_testing_stops_after_the_epoch(run, tmp_path, monkeypatch, capsys):
    expected, _ = run(None)
    path = tmp_path / "run.pt"

    def interrupted_test(model, loader, **arguments):
        signal.raise_signal(signal.SIGINT)
        return evaluate(model, loader, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr("eva_utils.training.evaluate", interrupted_test)
        _, history = run(path)
    assert len(history) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "stopped after epoch 1: run it again to go on"
    weights, _ = run(path)
    assert equal(weights, expected)


@pytest.mark.parametrize("kind", ["global generator", "own generator", "sampler's generator", "workers"])
def test_a_plain_loader_goes_on_within_an_epoch_to_the_same_bits(tmp_path, shapes, kind):
    images = torch.from_numpy(shapes.images).permute(0, 3, 1, 2).float() / 255
    dataset = TensorDataset(images, torch.from_numpy(shapes.labels))

    def train(path, loss_fn=F.cross_entropy):
        seed_everything(3)
        model = nn.Sequential(nn.Dropout(0.1), build_network("dilated_net"))
        generator = torch.Generator().manual_seed(5)
        loading = {
            "global generator": {"shuffle": True},
            "own generator": {"shuffle": True, "generator": generator},
            "sampler's generator": {"sampler": RandomSampler(dataset, generator=generator)},
            "workers": {"shuffle": True, "num_workers": 1},
        }[kind]
        loader = DataLoader(dataset, batch_size=16, **loading)
        fit(model, loader, loader, epochs=3, loss_fn=loss_fn, device="cpu", checkpoint=path, verbose=False)
        return model.state_dict()

    expected = train(None)
    for batch in (3, 4, 6, 12):  # in the middle and at the end of an epoch of four batches
        path = tmp_path / f"{batch}.pt"
        train(path, at_call(batch, lambda: signal.raise_signal(signal.SIGINT)))
        assert load_checkpoint(path)["epoch"]["steps"] == (batch - 1) % 4 + 1
        assert equal(train(path), expected), batch


def chained(optimizer, steps):
    parts = [lr_scheduler.ConstantLR(optimizer, 0.5, 2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[steps // 2])


def torchs(optimizer, steps):
    return lr_scheduler.OneCycleLR(optimizer, max_lr=0.04, total_steps=steps)


@pytest.mark.parametrize("schedule", [one_cycle, torchs, chained])
def test_the_same_optimizer_may_be_handed_in_again(tmp_path, shapes, schedule):
    loader = make_loader(shapes, eval_policy(), batch_size=16, shuffle=True, workers=0)
    model = build_network("dilated_net")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.04, momentum=0.9)
    scheduler = schedule(optimizer, 2 * len(loader))
    settings = {"optimizer": optimizer, "scheduler": scheduler, "checkpoint": tmp_path / "run.pt", "verbose": False}
    stop = at_call(6, lambda: signal.raise_signal(signal.SIGINT))
    assert len(fit(model, loader, loader, epochs=2, loss_fn=stop, **settings)) == 1
    assert len(fit(model, loader, loader, epochs=2, **settings)) == 2
    assert len(fit(model, loader, loader, epochs=2, **settings)) == 2


def test_parts_of_a_schedule_tell_runs_apart(tmp_path, shapes):
    loader = make_loader(shapes, eval_policy(), batch_size=16, workers=0)
    for gamma, refused in ((0.9, False), (0.8, True)):
        seed_everything(0)
        model = build_network("dilated_net")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.04)
        parts = [lr_scheduler.ExponentialLR(optimizer, decay) for decay in (0.99, gamma)]
        scheduler = lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])
        settings = {"optimizer": optimizer, "scheduler": scheduler, "checkpoint": tmp_path / "run.pt", "verbose": False}
        with pytest.raises(ValueError, match="another run, its schedule was") if refused else contextlib.nullcontext():
            fit(model, loader, loader, epochs=1, **settings)


@pytest.mark.parametrize("restart", [True, False])
def test_a_schedule_that_was_used_up_is_refused_before_anything_is_trained(shapes, tmp_path, restart):
    loader = make_loader(shapes, eval_policy(), batch_size=16, workers=0)
    model = build_network("dilated_net")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.04)
    settings = {"optimizer": optimizer, "scheduler": one_cycle(optimizer, 2 * len(loader)), "verbose": False}
    settings |= {"restart": True, "checkpoint": tmp_path / "run.pt"} if restart else {}
    stop = at_call(6, lambda: signal.raise_signal(signal.SIGINT))
    fit(model, loader, loader, epochs=2, loss_fn=stop, **settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="scheduler has 2 of its 8 steps left, and 8 are to come: make"):
        fit(model, loader, loader, epochs=2, **settings)
    assert equal(model.state_dict(), before)


def test_weights_that_a_last_step_broke_are_not_saved(run, tmp_path):
    def overflowing(logits, labels):
        calls.append(1)
        loss = F.cross_entropy(logits, labels)
        return loss + Overflow.apply(logits).mean() if len(calls) == 8 else loss

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return torch.zeros_like(values)

        @staticmethod
        def backward(ctx, gradient):
            return torch.full_like(gradient, torch.inf)

    calls, path = [], tmp_path / "run.pt"
    with pytest.raises(FloatingPointError, match=r"weights are not finite after step 4 of epoch 2, at learning rate"):
        run(path, loss_fn=overflowing)
    state = load_checkpoint(path)
    assert len(state["history"]["lr"]) == 1
    assert all(value.isfinite().all() for value in state["model"].values())


def test_logits_that_are_not_finite_are_not_saved(tmp_path, shapes):
    good = make_loader(shapes, eval_policy(), batch_size=20, workers=0)
    bad = DataLoader(TensorDataset(torch.full((4, 3, 32, 32), torch.nan), torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"the logits of 4 images, the first at index 0, are not finite: look for"):
        fit(build_network("dilated_net"), good, bad, epochs=1, precision="float32", checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


def test_what_cannot_be_seen_in_names_and_sizes_makes_another_run_too(tmp_path, shapes):
    path = tmp_path / "run.pt"
    others = shapes.subset(torch.randperm(len(shapes), generator=torch.Generator().manual_seed(0)).numpy())

    def net(dilation=1):
        return nn.Sequential(conv_relu_norm(3, 10, stride=2, dilation=dilation), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def train(model, *, images=shapes, tests=shapes, shuffle=True, test_std=CIFAR10_STD, period=4, seed=0, **settings):
        seed_everything(seed)
        loading = {"batch_size": 20, "workers": 0}
        train_loader = make_loader(images, eval_policy(), shuffle=shuffle, **loading)
        test_loader = make_loader(tests, eval_policy(std=test_std), **loading)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = lr_scheduler.StepLR(optimizer, period)
        arguments = {"optimizer": optimizer, "scheduler": scheduler, "checkpoint": path, "verbose": False, **settings}
        return fit(model, train_loader, test_loader, epochs=1, **arguments)

    train(net())
    train(net())
    for changed, arguments in (
        ("network", {"model": net(2)}),
        ("network", {"model": partly_frozen(net())}),
        ("network", {"model": at_identity(net())}),
        ("images", {"images": others}),
        ("test images", {"tests": dataclasses.replace(shapes, labels=shapes.labels[::-1].copy())}),
        ("test policy", {"test_std": (1.0, 1.0, 1.0)}),
        ("order", {"shuffle": False}),
        ("seed", {"seed": 1}),
        ("loss", {"loss_fn": functools.partial(F.cross_entropy, label_smoothing=0.1)}),
        ("schedule", {"period": 5}),
    ):
        with pytest.raises(ValueError, match=f"of another run, its {changed} was .*: say restart=True to start afresh"):
            train(**{"model": net(), **arguments})


def partly_frozen(model):
    next(model.parameters()).requires_grad_(False)
    return model


def at_identity(model):
    start_at_identity(model)
    return model


def test_the_settings_of_a_loss_module_count(tmp_path, shapes):
    loader = make_loader(shapes, eval_policy(), batch_size=20, workers=0)
    settings = {"epochs": 1, "checkpoint": tmp_path / "run.pt", "verbose": False}
    fit(build_network("dilated_net"), loader, loader, loss_fn=nn.CrossEntropyLoss(), **settings)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"its loss was .*'label_smoothing': 0\.0"):
        fit(build_network("dilated_net"), loader, loader, loss_fn=smooth, **settings)
    weighted = nn.CrossEntropyLoss(weight=torch.linspace(1, 2, 10))
    with pytest.raises(ValueError, match=r"its loss was .* not .*'weight': \[1\.0"):
        fit(build_network("dilated_net"), loader, loader, loss_fn=weighted, **settings)


def test_a_checkpoint_from_before_runs_had_batch_transforms_goes_on(tmp_path, shapes):
    loader = make_loader(shapes, eval_policy(), batch_size=20, workers=0)
    settings = {"checkpoint": tmp_path / "run.pt", "verbose": False}
    seed_everything(0)
    fit(build_network("dilated_net"), loader, loader, epochs=1, **settings)
    state = load_checkpoint(tmp_path / "run.pt")
    del state["run"]["batch transform"]
    save_checkpoint(tmp_path / "run.pt", state)
    seed_everything(0)
    assert len(fit(build_network("dilated_net"), loader, loader, epochs=1, **settings)) == 1


def test_what_killed_saves_left_is_removed(run, tmp_path):
    old, young = tmp_path / "run.pt.1.part", tmp_path / "run.pt.2.link"
    for left in (old, young):
        left.write_bytes(b"cut")
    os.utime(old, (0, time.time() - 100))
    run(tmp_path / "run.pt", epochs=1, verbose=False)
    assert not old.exists()
    assert young.exists()  # which may be another process's


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("model", {"weight": torch.zeros(3)}, "Missing key"),
        ("optimizer", {"state": {}}, "param_groups"),
        ("epoch", {"loss": None, "steps": 0, "images": 0}, "loss of the epoch is NoneType, not Tensor"),
        ("epoch", {"steps": 5, "images": 60}, "not one of 4 steps"),
        ("optimizer", {"state": {}, "param_groups": [{"lr": 5.0}]}, "settings of its optimizer are others"),
        ("epoch", {}, "KeyError.*steps"),
        ("history", {"lr": [1.0]}, "expected the lists train_loss"),
        ("random", {"python": (1, 2, 3)}, "ValueError.*state with version"),
    ],
)
def test_a_checkpoint_that_names_this_run_but_does_not_fit_it_is_refused(run, tmp_path, part, value, reason):
    path = tmp_path / "run.pt"
    run(path, epochs=1, verbose=False)
    save_checkpoint(path, load_checkpoint(path) | {part: value})
    with pytest.raises(ValueError, match=rf"(?s)run\.pt' names this run, but does not fit it \(.*{reason}.*\): say"):
        run(path, verbose=False)


@pytest.mark.parametrize("part", ["model", "run", "random"])
def test_a_checkpoint_of_another_making_is_refused(run, tmp_path, part):
    path = tmp_path / "run.pt"
    run(path, epochs=1, verbose=False)
    save_checkpoint(path, load_checkpoint(path) | {part: 5})
    with pytest.raises(ValueError, match="holds no checkpoint of such a run: name another file"):
        run(path, verbose=False)
