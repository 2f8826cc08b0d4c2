"""Real processes that train together, with gloo on the CPU."""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile

import pytest
import torch
from torch import nn

from eva_utils.distributed import joined, torchrun_place
from eva_utils.loaders import make_loader
from eva_utils.transforms import course_policy, eval_policy

# 97 images in batches of 16: the last batch has one image, so that all processes but the first get none of it.
TRAINING = """
import sys
import torch
import eva_utils as eva
from eva_utils.distributed import is_first, join, leave, torchrun_place
from eva_utils.shapes import SHAPE_CLASSES, draw_shapes

torch.set_num_threads(1)
path, until = sys.argv[1], int(sys.argv[2])
shard = torchrun_place()
if shard[1] > 1:
    join()
class Double(torch.nn.Module):  # in single precision, a ReLU whose input is nearly 0 can tell the runs apart
    def forward(self, x):
        return x.double()

images = eva.ImageSet(*draw_shapes(97, seed=5), SHAPE_CLASSES, "shapes")
eva.seed_everything(3 + shard[0])  # the others' weights are replaced by the first process's
model = torch.nn.Sequential(Double(), eva.build_network("dilated_separable_net").double())
loading = {"fast": True, "device": "cpu", "shard": shard}
train = eva.make_loader(images, eva.course_policy(), batch_size=16, shuffle=True, **loading)
test = eva.make_loader(images, eva.eval_policy(), batch_size=20, **loading)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
scheduler = eva.one_cycle(optimizer, 2 * len(train))
history = eva.fit(model, train, test, epochs=until, optimizer=optimizer, scheduler=scheduler, device="cpu",
                  precision="float32", average=0.5, checkpoint=path + ".checkpoint")
assert all("Joined" not in type(module).__name__ for module in model.modules())
if is_first():
    torch.save({"weights": model.state_dict(), "history": vars(history)}, path)
if shard[1] > 1:
    leave()
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains with some processes, or with some and then some others, and returns what was saved."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "training.py").write_text(TRAINING)

    @functools.cache
    def train(*counts):
        path = folder / "-".join(map(str, counts))
        for epoch, count in enumerate(counts, start=3 - len(counts)):
            out = torchrun(count, str(folder / "training.py"), str(path), str(epoch))
            assert out.count("Training on cpu") == 1
        return torch.load(path, weights_only=True)

    return train


@pytest.mark.parametrize("counts", [(2,), (3,), (2, 1), (1, 3)], ids=str)
def test_several_processes_train_as_one_does(trained, counts):
    alone, together = trained(1), trained(*counts)
    assert alone["history"]["train_loss"][1] < alone["history"]["train_loss"][0]
    for name, value in alone["weights"].items():
        assert torch.allclose(value.double(), together["weights"][name].double(), rtol=1e-4, atol=1e-6), name
    for name in ("train_loss", "train_acc", "test_loss", "test_acc"):
        assert alone["history"][name] == pytest.approx(together["history"][name], rel=1e-5), name


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


BATCH_NORM = """
import sys
import torch
from torch import nn
from eva_utils.distributed import JoinedBatchNorm2d, join, leave, torchrun_place

number, count = torchrun_place()
join()
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
leave()
"""


def test_joined_batch_norm_is_that_of_the_whole_batch(tmp_path):
    (tmp_path / "batch_norm.py").write_text(BATCH_NORM)
    torchrun(3, str(tmp_path / "batch_norm.py"))


SHELL = ("-m", "eva_utils", "train", "--images", "shapes", "--epochs", "1", "--batch-size", "32")


def test_the_shell_trains_with_several_processes_and_one_of_them_prints(tmp_path, monkeypatch):
    monkeypatch.setenv("EVA_SMOKE", "1")
    out = torchrun(2, *SHELL, "--out", str(tmp_path))
    assert out.count("test accuracy on shapes") == 1
    assert {path.name for path in tmp_path.iterdir()} >= {"record.json", "weights.pt", "checkpoint.pt"}


@pytest.mark.parametrize("count", [1, 2])
def test_seeds_are_spread_over_the_processes(tmp_path, monkeypatch, count):
    monkeypatch.setenv("EVA_SMOKE", "1")
    out = torchrun(count, *SHELL, "--seeds", "0-1,5", "--out", str(tmp_path))
    records = [json.loads((tmp_path / f"seed_{seed}" / "record.json").read_text()) for seed in (0, 1, 5)]
    assert [record["settings"]["seed"] for record in records] == [0, 1, 5]
    assert len({record["test_loss"] for record in records}) == 3
    mean = sum(record["test_acc"] for record in records) / 3
    assert re.search(rf"^{mean:.2%}  mean, deviation [\d.]+%, 3 seeds$", out, re.MULTILINE)
    assert out.count("seed_5/record.json") == 1
