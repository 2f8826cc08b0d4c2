"""Real processes that train together, with gloo on the CPU."""

import json
import os
import re
import subprocess
import sys
import tempfile

import pytest
import torch
from torch import nn

from eva_utils.__main__ import main
from eva_utils.distributed import joined, torchrun_place
from eva_utils.loaders import make_loader
from eva_utils.transforms import course_policy, eval_policy

# Each process is forked from one that has imported the library, and gets what torchrun would tell it.
PROGRAM = """
import os
import signal
import sys
import traceback

import torch
from torch import nn
from torch.distributed import TCPStore

import eva_utils as eva
from eva_utils.distributed import JoinedBatchNorm2d, is_first, join, leave, torchrun_place
from eva_utils.shapes import SHAPE_CLASSES, draw_shapes

torch.set_num_threads(1)


class Double(nn.Module):  # in single precision, a ReLU whose input is nearly 0 can tell the runs apart
    def forward(self, x):
        return x.double()


def train(path, until):
    # 97 images in batches of 16: the last batch has one image, so that all processes but the first get none of it
    shard = torchrun_place()
    images = eva.ImageSet(*draw_shapes(97, seed=5), SHAPE_CLASSES, "shapes")
    eva.seed_everything(3 + shard[0])  # the others' weights are replaced by the first process's
    model = nn.Sequential(Double(), eva.build_network("dilated_separable_net").double())
    loading = {"fast": True, "device": "cpu", "shard": shard}
    train = eva.make_loader(images, eva.course_policy(), batch_size=16, shuffle=True, **loading)
    test = eva.make_loader(images, eva.eval_policy(), batch_size=20, **loading)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = eva.one_cycle(optimizer, 2 * len(train))
    history = eva.fit(model, train, test, epochs=until, optimizer=optimizer, scheduler=scheduler, device="cpu",
                      precision="float32", ema_decay=0.5, checkpoint=path + ".checkpoint")
    assert all("Joined" not in type(module).__name__ for module in model.modules())
    if is_first():
        torch.save({"weights": model.state_dict(), "history": vars(history)}, path)


def batch_norm():
    number, count = torchrun_place()
    images = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 5
    plain, joined = nn.BatchNorm2d(3), JoinedBatchNorm2d(3)
    for layer in (plain, joined):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.0, 1.5, -2.0]))
            layer.bias.copy_(torch.tensor([0.3, 0.0, 1.0]))
    whole, mine = images.clone().requires_grad_(), images[number::count].clone().requires_grad_()
    out, part = plain(whole), joined(mine)
    assert torch.allclose(out[number::count], part, atol=1e-5)
    out.pow(3).sum().backward()
    part.pow(3).sum().backward()
    assert torch.allclose(whole.grad[number::count], mine.grad, atol=1e-3)
    assert torch.allclose(plain.running_mean, joined.running_mean, atol=1e-5)
    assert torch.allclose(plain.running_var, joined.running_var, atol=1e-4)
    assert torch.equal(plain.num_batches_tracked, joined.num_batches_tracked)
    assert torch.allclose(plain.eval()(images), joined.eval()(images), atol=1e-4)


def together(count, action, *arguments):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun's is in its own process too
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    children = set()
    for number in range(count):
        if child := os.fork():
            children.add(child)
            continue
        status = 1
        try:
            signal.alarm(300)  # a process whose peers are gone would wait for a week
            if count > 1:
                place = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count)}
                os.environ |= address | place | {"TORCHELASTIC_RUN_ID": "a test"}
                join()
            action(*arguments)
            if count > 1:
                leave()
            sys.stdout.flush()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:
                os.kill(other, signal.SIGKILL)
            sys.exit(1)


together(3, batch_norm)
for counts in ((1,), (2,), (3,), (2, 1), (1, 3)):
    for epoch, count in enumerate(counts, start=3 - len(counts)):
        print("-- a training", flush=True)
        together(count, train, os.path.join(sys.argv[1], "-".join(map(str, counts))), epoch)
"""


def torchrun(count, *command, timeout=240):
    """Return what ``count`` processes of the command printed, or one without torchrun if count is 1."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:  # where torchrun leaves its logs
        done = subprocess.run(
            [sys.executable, *launcher, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment | {"TMPDIR": folder},
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_several_processes_train_as_one_does(tmp_path):
    """With some processes, or with some and then some others; and their BatchNorm is that of the whole batch."""
    (tmp_path / "program.py").write_text(PROGRAM)
    out = torchrun(1, str(tmp_path / "program.py"), str(tmp_path), timeout=900)
    assert [training.count("Training on cpu") for training in out.split("-- a training")[1:]] == [1] * 7
    alone = torch.load(tmp_path / "1", weights_only=True)
    assert alone["history"]["train_loss"][1] < alone["history"]["train_loss"][0]
    for counts in ("2", "3", "2-1", "1-3"):
        together = torch.load(tmp_path / counts, weights_only=True)
        for name, value in alone["weights"].items():
            same = torch.allclose(value.double(), together["weights"][name].double(), rtol=1e-4, atol=1e-6)
            assert same, (counts, name)
        for name in ("train_loss", "train_acc", "test_loss", "test_acc"):
            assert alone["history"][name] == pytest.approx(together["history"][name], rel=1e-5), (counts, name)


@pytest.mark.parametrize("batch_size", [16, 10])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_shares_of_a_batch_are_disjoint_and_make_it_up(shapes, count, batch_size):
    whole = [*make_loader(shapes, course_policy(), batch_size=batch_size, shuffle=True, fast=True, device="cpu")]
    shares = [
        [
            *make_loader(
                shapes, course_policy(), batch_size=batch_size, shuffle=True, fast=True, device="cpu", shard=(i, count)
            )
        ]
        for i in range(count)
    ]
    assert {len(share) for share in shares} == {len(whole)}
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        assert sum(len(part_labels) for _, part_labels in parts) == len(labels)
        for i, (part_images, part_labels) in enumerate(parts):
            assert torch.equal(part_images, images[i::count])
            assert torch.equal(part_labels, labels[i::count])


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 17)])
def test_bad_shards_are_named(shapes, shard):
    with pytest.raises(ValueError, match=r"shard=\(-?\d+, \d+\) of batches of 16: expected \(i, n\)"):
        make_loader(shapes, eval_policy(), batch_size=16, fast=True, device="cpu", shard=shard)
    with pytest.raises(ValueError, match="without fast=True: the ordinary loader gives whole batches"):
        make_loader(shapes, eval_policy(), batch_size=16, shard=shard)


def test_one_process_trains_the_model_itself():
    model = nn.Sequential(nn.BatchNorm2d(3))
    with joined(model) as trained:
        assert trained is model
    assert torchrun_place() == (0, 1)


SHELL = ("-m", "eva_utils", "train", "--images", "shapes", "--epochs", "1", "--batch-size", "32")


def test_the_shell_trains_with_several_processes_and_one_of_them_prints(tmp_path, monkeypatch):
    monkeypatch.setenv("EVA_SMOKE", "1")
    out = torchrun(2, *SHELL, "--out", str(tmp_path))
    assert out.count("test accuracy on shapes") == 1
    assert {path.name for path in tmp_path.iterdir()} >= {"record.json", "weights.pt", "checkpoint.pt"}


@pytest.mark.parametrize("count", [1, 2])
def test_seeds_are_spread_over_the_processes(tmp_path, monkeypatch, capsys, count):
    monkeypatch.setenv("EVA_SMOKE", "1")
    command = [*SHELL, "--seeds", "0-1,5", "--out", str(tmp_path)]
    if count == 1:
        assert main(command[2:]) == 0
    out = torchrun(count, *command) if count > 1 else capsys.readouterr().out
    records = [json.loads((tmp_path / f"seed_{seed}" / "record.json").read_text()) for seed in (0, 1, 5)]
    assert [record["settings"]["seed"] for record in records] == [0, 1, 5]
    assert len({record["test_loss"] for record in records}) == 3
    mean = sum(record["test_acc"] for record in records) / 3
    assert re.search(rf"^{mean:.2%}  mean, deviation [\d.]+%, 3 seeds$", out, re.MULTILINE)
    assert out.count("seed_5/record.json") == 1
