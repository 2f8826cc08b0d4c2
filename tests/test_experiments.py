"""The experiments run, and their pages say what their records say."""

import argparse
import ast
import importlib
import json
import math
import re
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import SqueezeExcitation

import eva_utils as eva
from eva_utils.models.blocks import Residual
from eva_utils.models.mirror_net import MirrorDepthwise
from eva_utils.recipes import RECIPES
from eva_utils.runtime import autocast, best_precision

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
LESSONS = EXPERIMENTS / "lessons.md"
OTHERS = {  # which their docstrings say
    "separable_stack": 94_528,
    "full_size_stack": 94_688,
    "large_kernel_net": 98_448,
    "wide_large_kernel_net": 172_824,
    "gated_mirror_32_100": 95_544,
    "gated_mirror_32_80_128": 99_256,
    "gated_mirror_32_96_176": 184_272,
    "gated_mirror_32_112_176": 185_928,
    "shared_pair": 94_800,
    "two_pairs": 157_824,
    "gated_pairs": 170_592,
    "deep_residual_net": 197_244,
    "early_64": 197_936,
    "small_early_64": 96_188,
    "small_early_96": 94_628,
    "small_early_dense": 98_800,
    "small_dilated_residual_net": 95_092,
    "dilated_residual_net": 191_264,
    "narrow_mirror_net": 95_406,
    "wide_residual_net": 191_406,
    "small_teacher": 1_123_586,
    "teacher": 1_973_186,
    "large_teacher": 3_151_810,
    "residual_teacher": 7_495_114,
}
RECORDS = sorted((EXPERIMENTS / "records").glob("*.json"))
MIRRORED = sorted((EXPERIMENTS / "records" / "mirrored").glob("*.json"))
MIRRORED_TOO = {  # the lessons or notebook 08 tell what these reach with the mirror image
    "dilated_net_taught_140_epochs_test",
    *(
        f"{name}_0_test"
        for name in ("dilated_net_36_epochs", "dilated_net_116_epochs", "dilated_separable_net_106_epochs")
    ),
    *(f"{name}_test" for name in ("small_residual_net_120_epochs", "small_residual_net_0")),
    *(f"{name}_test" for name in ("residual_net_90_epochs", "residual_net_0")),
}
SIDE_BY_SIDE = {  # the networks of the trainings that were cut, as the lessons name them
    "mirror_net": "`mirror_net`",
    "many_scales": "`many_scales`",
    "resnet20": "ResNet-20",
    "small_mirror_net": "`small_mirror_net`",
    "densenet40": "DenseNet-BC-40",
}
SHIPPED = {f"{name}_0_test": name for name in eva.NETWORKS}  # records of weights that the library ships


@pytest.fixture
def experiments(monkeypatch):
    """Import one of the experiments' scripts, which are no modules of the package."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module


@pytest.fixture
def networks(experiments):
    return experiments("networks")


@pytest.fixture
def quick_depthwise(experiments):
    return experiments("quick_depthwise")


def test_the_networks_have_as_many_parameters_as_their_docstrings_say(networks):
    published = {"resnet20": 272_474, "densenet40": 176_122, "many_scales": 97_530}
    assert (published | OTHERS).keys() == networks.NETWORKS.keys()
    for name, count in (published | OTHERS).items():
        assert sum(p.numel() for p in networks.NETWORKS[name]().parameters()) == count


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize(
    ("shape", "mirrored"),
    [((2, 5, 32, 32), False), ((3, 5, 7, 16), False), ((2, 6, 32, 32), True), ((3, 6, 7, 16), True)],
)
def test_the_quick_depthwise_convolution_has_the_numbers_of_torchs(quick_depthwise, shape, mirrored, dilation, side):
    padding = dilation * (side // 2)
    quick = quick_depthwise.QuickDepthwise(5, side, dilation)
    slow = torch.nn.Conv2d(5, 5, side, padding=padding, dilation=dilation, groups=5)
    if mirrored:
        quick = quick_depthwise.QuickMirrorDepthwise(6, side, dilation=dilation)
        slow = MirrorDepthwise(6, side, dilation=dilation)
    slow.load_state_dict(quick.state_dict())
    images = torch.randn(shape, requires_grad=True)
    found = []
    for layer in (quick, slow):
        out = layer(images)
        found.append([out, *torch.autograd.grad(out.square().sum(), [images, *layer.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(9, 10), (6, 6), (3, 20), (20, 3)])
@pytest.mark.parametrize("side", [3, 5, 7, 9])
def test_the_quick_gradient_of_kernels_is_torchs(quick_depthwise, side, size):
    images, grad = torch.randn(2, 4, 3, *size)  # two of (4, 3, H, W)
    kernels = torch.zeros(3, 1, side, side, requires_grad=True)
    out = torch.nn.functional.conv2d(images, kernels, padding=side // 2, groups=3)
    expected = torch.autograd.grad(out, kernels, grad)[0]
    torch.testing.assert_close(quick_depthwise.kernel_gradient(images, grad, side), expected, rtol=1e-4, atol=1e-4)


def test_the_quick_depthwise_convolution_wants_an_odd_kernel(quick_depthwise):
    with pytest.raises(ValueError, match="kernel_size=4: expected an odd size"):
        quick_depthwise.QuickDepthwise(6, 4, 1)


@pytest.mark.parametrize("shape", [(8, 6, 32, 32), (8, 6, 16, 16), (8, 6, 6, 6)])
def test_the_quick_depthwise_convolution_learns_under_autocast(quick_depthwise, shape):
    layer = quick_depthwise.QuickDepthwise(6, 7, 1)
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = torch.autograd.grad(layer(images).square().sum(), [images, *layer.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(images)
    assert out.dtype == torch.bfloat16
    for ours, theirs in zip(
        torch.autograd.grad(out.float().square().sum(), [images, *layer.parameters()]), exact, strict=True
    ):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize(
    ("name", "tier", "multiply_adds"),
    [
        *(("full_size_stack", "bonus", 50e6), ("large_kernel_net", "bonus", 47e6)),
        *(("gated_mirror_32_100", "bonus", 56e6), ("gated_mirror_32_80_128", "bonus", 45e6)),
        *(("gated_mirror_32_96_176", "standard", 59e6), ("gated_mirror_32_112_176", "standard", 59e6)),
        ("wide_large_kernel_net", "standard", 59e6),
    ],
)
def test_the_designs_for_a_gpu_meet_the_clauses(networks, name, tier, multiply_adds):
    model = networks.NETWORKS[name]().eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 == pytest.approx(multiply_adds, rel=0.01)
    assert eva.check_assignment(model, 0.9, RECIPES["small_mirror_net"]["policy"](), tier).passed is True


@pytest.mark.parametrize(
    ("name", "tier", "multiply_adds"), [("small_residual_net", "bonus", 25.3e6), ("residual_net", "standard", 41.3e6)]
)
def test_stride_replaced_with_dilation_leaves_weights_and_receptive_field(networks, name, tier, multiply_adds):
    """Without its gates, which see the whole map, the network says at every second place what the strided one says."""
    strided = eva.build_network(name).eval()
    dilated = networks.NETWORKS[name.replace("residual", "dilated_residual")]().eval()
    dilated.load_state_dict(strided.state_dict())
    with FlopCounterMode(display=False) as counter:
        dilated(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 == pytest.approx(multiply_adds, rel=0.005)
    assert eva.check_assignment(dilated, 0.9, RECIPES[name]["policy"](), tier).passed is True
    fields = [eva.receptive_field(model) for model in (strided, dilated)]
    assert fields[0].before_pooling == fields[1].before_pooling
    images = torch.randn(2, 3, 32, 32)
    maps = []
    for model in (strided, dilated):
        for block in model.modules():
            if isinstance(block, Residual):
                block.body[3] = torch.nn.Identity()
        maps.append(model.layers[:-2](images))
    assert maps[0].shape[2:] == (8, 8)
    assert maps[1].shape[2:] == (16, 16)
    torch.testing.assert_close(maps[1][:, :, ::2, ::2], maps[0])


@pytest.mark.parametrize(
    ("name", "tier", "field", "multiply_adds"),
    [
        ("narrow_mirror_net", "bonus", (77, 80), 34e6),
        ("wide_residual_net", "standard", (69, 69), 40.4e6),
    ],
)
def test_a_mirror_net_and_a_rival_meet_the_clauses(networks, name, tier, field, multiply_adds):
    model = networks.NETWORKS[name]().eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 == pytest.approx(multiply_adds, rel=0.005)
    assert eva.check_assignment(model, 0.9, RECIPES["small_residual_net"]["policy"](), tier).passed is True
    assert eva.receptive_field(model).before_pooling == field


def test_all_networks_give_logits_and_learn_in_all_their_layers(networks):
    images = torch.randn(2, 3, 32, 32)
    for name, factory in networks.NETWORKS.items():
        model = factory(num_classes=7)
        for layer in model.modules():
            if isinstance(layer, SqueezeExcitation):  # else, by chance, its few hidden units can all be silent
                torch.nn.init.ones_(layer.fc1.bias)
        logits = model(images)
        assert logits.shape == (2, 7), name
        F.cross_entropy(logits, torch.tensor([1, 4])).backward()
        silent = [key for key, p in model.named_parameters() if not p.grad.any() and not key.endswith("bias")]
        assert not silent, name


@pytest.fixture
def long_training(stages):
    """Return the records, by seed, of the training that a network's final weights began with."""
    return lambda network: [stages(EXPERIMENTS / "records" / f"{network}_{seed}_test.json")[-1] for seed in range(3)]


@pytest.fixture
def script(tmp_path, monkeypatch, capsys, experiments):
    """Run a script on the built-in images, in a folder of its own; in this process, as starting one takes seconds."""
    monkeypatch.setenv("EVA_SMOKE", "1")
    monkeypatch.chdir(tmp_path)

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
        main, returncode = experiments(name).main, 0
        capsys.readouterr()
        try:
            main()
        except SystemExit as leaving:
            returncode = leaving.code
        return subprocess.CompletedProcess([name, *options], returncode, *capsys.readouterr())

    return run


@pytest.fixture
def probe(script):
    """Run a probe of one epoch."""
    return lambda *options: script("probe", "--epochs", "1", *options)


def test_a_probe_writes_its_record(probe, tmp_path):
    policy = ["--affine", "0.5", "--jitter", "0.2", "--grey", "0.1", "--mixup", "0.2"]
    done = probe("--network", "small_residual_net", *policy, "--hold-out", "100", "--out", "probe.json")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert f"probe: {record['test_acc']:.2%} of 100 held-back images" in done.stdout
    assert record["arguments"]["network"] == "small_residual_net"
    run = record["history"]["run"]
    assert all(name in run["policy"] for name in ("Affine", "ColorJitter", "ToGray", "CoarseDropout"))
    assert run["batch transform"].startswith("MixUp(alpha=0.2")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles with g++, which is not here")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, as it compiles
def test_a_compiled_probe_learns_what_the_other_does(probe, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_WARM_POOL", "0")  # of processes that a CPU has no use for
    losses = []
    for options in ([], ["--compile"]):
        done = probe(
            "--hold-out", "100", "--batch-size", "100", *options, "--out", "probe.json", "--network", "dilated_net"
        )
        assert done.returncode == 0, done.stderr
        history = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))["history"]
        assert history["run"]["precision"].endswith(", compiled") == bool(options)
        losses += history["train_loss"]
        (tmp_path / "probe.pt").unlink()
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_teacher_teaches_what_it_was_not_trained_on(probe, tmp_path):
    teacher = ["--network", "resnet20", "--average", "0"]
    assert probe(*teacher, "--hold-out", "100", "--out", "teacher.json").returncode == 0
    taught = ["--optimizer", "muon", "--identity", "--teacher", "teacher.json"]
    mirrored = [*taught, "--mirrored-teacher"]
    for refused, reason in (
        ([*taught, "--hold-out", "200", "--out", "a.json"], "it was trained on images that are held back here"),
        ([*taught, "--hold-out", "100", "--out", "teacher.json"], "would take its place; choose another --out"),
        ([*taught, "--hold-out", "100", "--out", "teacher"], "would take its place; choose another --out"),
        (
            [*taught, "--hold-out", "100", "--mirror", "--out", "a.json"],
            "change the copies that a teacher has answered",
        ),
        (["--correct", "--out", "a.json"], "change the copies that a teacher has answered: add --copies"),
        (["--first-copy", "2", "--out", "a.json"], "change the copies that a teacher has answered: add --copies"),
        ([*taught, "--copies", "2", "--first-copy", "-1", "--hold-out", "100", "--out", "a.json"], "from 0 on"),
        (["--teacher", "nowhere.json", "--out", "a.json"], "expected the record of a probe, with its weights"),
    ):
        done = probe(*refused)
        assert done.returncode == 2
        assert reason in done.stderr
    for hold_out, options in (("0", mirrored), ("100", taught)):
        done = probe(*options, "--hold-out", hold_out, "--out", f"student_{hold_out}.json")
        assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "student_0.json").read_text(encoding="utf-8"))
    assert record["tested on"].startswith("ImageSet")
    run = record["history"]["run"]
    assert run["batch transform"].startswith("Distillation(Mirrored")
    assert run["network"].endswith("started at the identity")
    assert run["optimizer"].startswith("Muon")


def test_a_probe_goes_on_from_the_weights_of_another(probe, tmp_path):
    first = ["--network", "small_residual_net", "--average", "0", "--hold-out", "100"]
    assert probe(*first, "--out", "first.json").returncode == 0
    start = [*first, "--start", "first.weights", "--out", "second.json"]
    for refused, reason in (
        ([*start, "--hold-out", "200"], "it was trained on images that are held back here"),
        ([*start, "--identity"], "--start brings weights of its own"),
        ([*start, "--out", "first.json"], "the weights of this run would take its place; choose another --out"),
        ([*first, "--mean-with-start", "--out", "a.json"], "--mean-with-start: with which weights? add --start"),
        ([*start, "--network", "dilated_net"], "had --network small_residual_net, this one has dilated_net"),
        ([*start, "--without", "dilation"], "its network had --without None, this one has dilation"),
        ([*start, "--start", "nowhere.pt"], "--start nowhere.pt: no such file"),
    ):
        done = probe(*refused)
        assert done.returncode == 2
        assert reason in done.stderr
    done = probe(*start)
    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("first.json", "second.json")]
    assert records[1]["arguments"]["start"] == "first.weights"
    assert records[1]["history"]["train_loss"][0] < records[0]["history"]["train_loss"][0]
    first, second = (torch.load(tmp_path / name) for name in ("first.weights", "second.weights"))
    done = probe(*start, "--mean-with-start")  # of the finished run
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "second.json").read_text(encoding="utf-8"))
    assert again["history"] == records[1]["history"]
    mean, weight = torch.load(tmp_path / "second.weights"), "layers.0.0.weight"
    torch.testing.assert_close(mean[weight], (first[weight] + second[weight]) / 2)
    assert not first[weight].equal(second[weight])


def test_the_mean_of_two_weights_gets_statistics_of_its_own(experiments, tmp_path):
    start, model = tmp_path / "first.weights", torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    first = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(first, start)
    torch.nn.init.normal_(model[0].weight)
    second = model[0].weight.detach().clone()
    images, labels = torch.randn(8, 3, 9, 9), torch.arange(8)
    model(images), model(images), model.eval()
    experiments("probe").mean_with(start, model, [(images, labels)])
    assert not model.training
    torch.testing.assert_close(model[0].weight, (first["0.weight"] + second) / 2)
    maps = model[0](images)
    torch.testing.assert_close(model[1].running_mean, maps.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, maps.var(dim=(0, 2, 3)))
    assert model[1].momentum == 0.1
    assert model[1].num_batches_tracked == 2  # of the training, not of the pass


def test_a_network_is_tested_alone_and_with_the_mirror_images(probe, script, tmp_path):
    assert probe("--network", "dilated_net", "--hold-out", "100", "--out", "a.json").returncode == 0
    command = ["mirrored", "--out", "both", "a.json"]
    done = script(*command)
    assert done.returncode == 0, done.stderr
    alone, both = (json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("a.json", "both/a.json"))
    assert both["alone"]["acc"] == alone["test_acc"]
    assert "100 images" in both["tested on"]
    assert both["mirrored"]["loss"] != both["alone"]["loss"]
    (tmp_path / "a.json").write_text(json.dumps(alone).replace("checksum ", "checksum 0"), encoding="utf-8")
    done = script(*command)
    assert done.returncode == 2
    assert "a.json was tested on other images" in done.stderr
    (tmp_path / "a.weights").unlink()
    done = script(*command)
    assert done.returncode == 2
    assert "expected records of a probe, with their weights beside them: a.json" in done.stderr


def test_a_teacher_is_asked_once_for_all_students(probe, tmp_path):
    assert probe("--network", "resnet20", "--hold-out", "100", "--out", "teacher.json").returncode == 0
    teachers = ["--teacher", "teacher.json", "teacher.json"]
    taught = [*teachers, "--copies", "2", "--hold-out", "100", "--epochs", "3", "--out"]
    assert probe(*taught, "student.json").returncode == 0
    answers = {path.name: path.read_bytes() for path in (tmp_path / "answers").glob("*.npy")}
    assert sorted(answers) == ["000.npy", "001.npy"]
    times = [path.stat().st_mtime_ns for path in (tmp_path / "answers").glob("*.npy")]
    assert probe(*taught, "again.json", "--seed", "1").returncode == 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "answers").glob("*.npy")] == times
    records = [json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("student.json", "again.json")]
    asked = json.loads((tmp_path / "answers" / "settings.json").read_text(encoding="utf-8"))
    assert asked["teacher"].startswith("Mean of weights ")
    taught_by = f"Distillation({asked['teacher']}, 4) on 2 augmented copies "
    assert records[0]["history"]["run"]["batch transform"].startswith(taught_by)
    assert records[0]["history"]["train_loss"] != records[1]["history"]["train_loss"]
    later = [*teachers, "--copies", "1", "--first-copy", "1", "--mirror", "--hold-out", "100", "--epochs", "2"]
    assert probe(*later, "--out", "later.json").returncode == 0
    run = json.loads((tmp_path / "later.json").read_text(encoding="utf-8"))["history"]["run"]
    assert " on 1 augmented copies, the first of them number 1, mirrored in every other pass" in run["batch transform"]
    assert [path.stat().st_mtime_ns for path in (tmp_path / "answers").glob("*.npy")] == times
    with pytest.raises(ValueError, match="answers holds answers of another policy: name another folder, or delete it"):
        probe(*taught, "other.json", "--grey", "0.5")


def outspoken(network):
    """Scale the last normalisation of an untrained network, whose logits are next to nothing, so that they are not."""
    norm = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)][-1]
    with torch.no_grad():
        norm.weight /= network.eval()(torch.randn(32, 3, 32, 32)).std()
    return network


def test_the_answers_are_those_of_the_teacher_to_the_images_shown(experiments, tmp_path):
    answers = experiments("answers")
    train_set, _ = eva.load_images("shapes")
    train_set = train_set.subset(np.arange(0, 400, 5))
    eva.seed_everything(0)
    teacher = outspoken(eva.build_network("dilated_net", num_classes=len(train_set.classes)))
    settings = {"teacher": teacher, "copies": 2, "folder": tmp_path}
    loader = answers.Taught(train_set, eva.crop_policy(dropout=0.5), 32, seed=3, **settings)
    distillation = answers.Answered(loader, temperature=2)
    epochs = []
    for _ in range(3):
        shown = []
        for images, labels in loader:
            same, probs = distillation(images, labels)
            assert same is images
            with torch.no_grad():
                expected = (teacher(images) / 2).softmax(dim=1)
            torch.testing.assert_close(probs, expected, rtol=0, atol=0.02)  # asked in bfloat16 where there is one
            shown += images.sum(dim=(1, 2, 3)).tolist()
        epochs.append(shown)
    assert epochs[0] != epochs[2]
    assert sorted(epochs[0]) == sorted(epochs[2]) != sorted(epochs[1])
    settings |= {"copies": 1, "first": 1}
    loader = answers.Taught(train_set, eva.crop_policy(dropout=0.5), 32, seed=3, **settings)
    assert sorted(images.sum().item() for batch, _ in loader for images in batch) == pytest.approx(sorted(epochs[1]))
    assert repr(answers.Answered(loader, temperature=2)).endswith(" on 1 augmented copies, the first of them number 1")


def test_a_mirrored_teachers_answers_are_not_taken_for_those_of_the_network_alone(experiments, tmp_path):
    answers = experiments("answers")
    train_set, _ = eva.load_images("shapes")
    train_set = train_set.subset(np.arange(32))
    eva.seed_everything(0)
    network = outspoken(eva.build_network("dilated_net"))
    settings = {"seed": 0, "copies": 1, "folder": tmp_path}
    loader = answers.Taught(train_set, eva.crop_policy(), 32, **settings, teacher=eva.Mirrored(network))
    ((images, _),) = loader
    device = images.device
    with torch.inference_mode(), autocast(device, best_precision(device)):  # in which it was asked
        alone, mirrored = network(images), network(images.flip(3))
    mean = (alone + mirrored).float() / 2
    torch.testing.assert_close(loader.logits, mean, rtol=0, atol=0.02)
    assert (loader.logits - alone).abs().max() > 0.04
    with pytest.raises(ValueError, match="holds answers of another teacher"):
        answers.Taught(train_set, eva.crop_policy(), 32, **settings, teacher=network)


def test_every_other_pass_shows_the_copies_mirrored_under_the_same_answers(experiments, tmp_path):
    answers = experiments("answers")
    train_set, _ = eva.load_images("shapes")
    train_set = train_set.subset(np.arange(32))
    eva.seed_everything(0)
    settings = {"teacher": eva.build_network("dilated_net"), "copies": 1, "first": 1, "folder": tmp_path}
    settings |= {"mirror": True}
    loader = answers.Taught(train_set, eva.crop_policy(dropout=0.5), 32, **settings, seed=0)
    passes = []
    for _ in range(3):
        ((images, _),) = loader  # one batch
        order = np.lexsort(loader.logits.numpy().T)
        passes.append((loader.logits[order], images[order]))
    for (logits, images), mirrored in zip(passes, (False, True, False), strict=True):
        assert torch.equal(logits, passes[0][0])
        assert torch.equal(images.flip(3) if mirrored else images, passes[0][1])


def test_a_corrected_answer_has_the_label_for_its_first_choice_and_the_same_probabilities(experiments, tmp_path):
    answers = experiments("answers")
    train_set, _ = eva.load_images("shapes")
    eva.seed_everything(0)
    settings = {"teacher": eva.build_network("dilated_net"), "copies": 1, "folder": tmp_path}
    loader = answers.Taught(train_set.subset(np.arange(64)), eva.crop_policy(), 64, **settings, seed=0)
    ((images, labels),) = loader
    loader.logits = torch.randn(64, 10)
    _, asked = answers.Answered(loader, temperature=2)(images, labels)
    _, probs = answers.Answered(loader, temperature=2, corrected=True)(images, labels)
    right = asked.argmax(dim=1) == labels
    assert 0 < right.sum() < 64
    assert torch.equal(probs[right], asked[right])
    assert torch.equal(probs.argmax(dim=1), labels)
    for corrected, given, label in zip(probs, asked, labels, strict=True):
        expected, first = given.clone(), given.argmax()
        expected[label], expected[first] = given[first], given[label]
        torch.testing.assert_close(corrected, expected)


def test_a_probe_takes_out_what_it_is_told_to(experiments):
    probe = experiments("probe")
    convs = {"network": "small_residual_net"}
    whole = probe.build(convs, 10)
    count = sum(p.numel() for p in whole.parameters())
    gates = [layer for layer in whole.modules() if isinstance(layer, SqueezeExcitation)]
    assert len(gates) == 7
    for changes, difference in (
        ({"without": "gates"}, -sum(p.numel() for gate in gates for p in gate.parameters())),
        ({"without": "shortcuts"}, 0),
        ({"without": "dilation"}, 0),
        ({"depthwise": 5}, 4 * 64 * (25 - 9)),
    ):
        model = probe.build(convs | changes, 10)
        assert sum(p.numel() for p in model.parameters()) == count + difference, changes
        assert str(model) != str(whole), changes
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    for network, larger in (("separable_stack", 5), ("small_dilated_residual_net", 5), ("many_scales", None)):
        parts = [{}, {"without": "dilation"}, {"depthwise": larger}]
        convs = [
            [layer for layer in probe.build({"network": network} | part, 10).modules() if isinstance(layer, nn.Conv2d)]
            for part in parts
        ]
        dilations = [[layer.dilation for layer in layers] for layers in convs]
        assert max(dilations[0]) > (1, 1) == max(dilations[1]), network
        assert dilations[2] == dilations[0], network
        sides = {layer.kernel_size for layer in convs[2] if layer.groups > 1}
        assert larger is None or sides == {(larger, larger)}, network
    forms = experiments("quick_depthwise")
    for name, form, sizes in (
        ("large_kernel_net", forms.QuickDepthwise, [(48, 1), (48, 3), (48, 1), (76, 1), (76, 3), (76, 1)]),
        (
            "small_gated_mirror_net",
            forms.QuickMirrorDepthwise,
            [(16, 1), (16, 3), (16, 1), (48, 1), (48, 3), (48, 1), (48, 3), (48, 1)],
        ),
    ):
        torch.manual_seed(0)
        model = probe.build({"network": name}, 10)
        quick = [layer for layer in model.modules() if isinstance(layer, form)]
        assert [(layer.groups, layer.kernel_size, layer.dilation) for layer in quick] == [
            (count, (7, 7), (dilation, dilation)) for count, dilation in sizes
        ]
        torch.manual_seed(0)
        plain = probe.FACTORIES[name]()
        assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), model.parameters(), strict=True))
    mirror = probe.build({"network": "small_mirror_net", "depthwise": 5}, 10)
    assert sum(p.numel() for p in mirror.parameters()) == 95_055 + 4 * 48 * (25 - 9)
    assert mirror(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("network", "record"),
    [
        *(("small_residual_net", "small_residual_net_0_test"), ("residual_net", "residual_net_0_test")),
        ("small_mirror_net", "small_mirror_net_84_epochs_test"),
    ],
)
def test_the_library_trains_our_own_networks_as_their_records_say(experiments, stages, network, record):
    recipe = RECIPES[network]
    arguments = stages(EXPERIMENTS / "records" / f"{record}.json")[-1]["arguments"]  # what began it
    names = {name: name for name in ("epochs", "batch_size", "lr", "warmup", "final")} | {"average": "ema_decay"}
    for asked, name in names.items():
        assert arguments[asked] == recipe[name], name
    assert bool(arguments["identity"]) == recipe["identity"]
    assert not arguments["teacher"]
    assert str(experiments("probe").policy(argparse.Namespace(**arguments))) == str(recipe["policy"]())
    optimizer = recipe["optimizer"](eva.build_network(network), recipe["lr"])
    same = experiments("probe").make_optimizer(eva.build_network(network), argparse.Namespace(**arguments))
    assert repr(optimizer) == repr(same)


def test_the_pages_say_what_the_final_runs_reached():
    page, lessons = (path.read_text(encoding="utf-8") for path in (EXPERIMENTS / "README.md", LESSONS))
    own = [
        path.stem
        for path in RECORDS
        if re.fullmatch(r"(small_)?(residual|(gated_)?mirror)_net_(\d|\d+_epochs(_\d)?)_test", path.stem)
    ]
    assert len(own) == 19
    taught = [path.stem for path in RECORDS if "_taught_" in path.stem and path.stem.endswith("_test")]
    assert len(taught) >= 5
    published = [
        path.stem for path in RECORDS if re.fullmatch(r"dilated(_separable)?_net_\d+_epochs_\d_test", path.stem)
    ]
    assert len(published) == 9
    for name in (*own, "large_teacher_18", "residual_teacher_0", *taught, *published):
        record = json.loads((EXPERIMENTS / "records" / f"{name}.json").read_text(encoding="utf-8"))
        assert f"{record['test_acc']:.2%}" in lessons, name
        if name in SHIPPED:
            seeds = [path for path in RECORDS if re.fullmatch(rf"{SHIPPED[name]}_\d_test", path.stem)]
            mean = statistics.mean(json.loads(path.read_text(encoding="utf-8"))["test_acc"] for path in seeds)
            assert f"{mean:.2%}" in page, name


def test_the_lessons_say_what_the_mirror_image_brings():
    page = " ".join(LESSONS.read_text(encoding="utf-8").split())
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in MIRRORED}
    held_back = [record for record in records.values() if "held back" in record["tested on"]]
    gains = [100 * (record["mirrored"]["acc"] - record["alone"]["acc"]) for record in held_back]
    assert len(gains) >= 10
    span = f"{min(gains):.1f} to {max(gains):.1f} points, {statistics.mean(gains):.1f} on the average"
    assert f"each of {len(gains)} networks gained {span}" in page
    notebook = (EXPERIMENTS.parent / "notebooks" / "08_record.ipynb").read_text(encoding="utf-8")
    assert f"each of {len(gains)} networks gained, {statistics.mean(gains):.1f} points on the average" in notebook
    for name in ("small_residual_net_0_test", "residual_net_0_test"):
        assert f"{records[name]['mirrored']['acc']:.2%} of the test images" in page
    both = records["dilated_separable_net_taught_mirrored_24_epochs_test"]["mirrored"]
    assert f"With the mirror image at the test it has {both['acc']:.2%}, less" in page


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--decay-all"], "--decay-all is for Muon alone"),
        (["--depthwise", "4"], "--depthwise 4: expected an odd side"),
        (["--copies", "2"], "add --teacher"),
        (["--mirrored-teacher"], "--mirrored-teacher: which one? add --teacher"),
        (["--copies", "-1"], "--copies -1: expected a number from 0 on"),
        (["--first-copy", "-1"], "--first-copy -1: expected a number from 0 on"),
        (["--network", "resnet20", "--without", "gates"], "--without gates changes nothing in resnet20: leave it out"),
        (["--network", "resnet20", "--depthwise", "5"], "--depthwise 5 changes nothing in resnet20: leave it out"),
    ],
)
def test_a_probe_refuses_what_it_would_pass_over(experiments, monkeypatch, capsys, options, says):
    monkeypatch.setattr("sys.argv", ["probe.py", *options, "--out", "a.json"])
    with pytest.raises(SystemExit):
        experiments("probe")._arguments()
    assert says in capsys.readouterr().err


def test_the_list_of_runs_names_the_weights_that_are_the_librarys():
    page = " ".join((EXPERIMENTS / "records" / "README.md").read_text(encoding="utf-8").split())
    listed = re.findall(r"Those of ([^.]*?) are the library's, in `eva_utils/weights`", page)[0]
    ours = [path.stem for path in RECORDS if path.stem in SHIPPED]
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(ours)


def test_no_two_runs_share_a_record(experiments):
    ingredients = experiments("ingredients")
    assert len({ingredients.path(name, 0) for name in ingredients.RUNS}) == len(ingredients.RUNS)


def test_an_interrupted_probe_has_the_time_to_save(experiments, tmp_path, monkeypatch, interruptible):
    ingredients = experiments("ingredients")
    (tmp_path / "probe.py").write_text(
        "import os, signal, time\n"
        "def save(*_):\n"
        "    time.sleep(1)  # longer than subprocess waits of its own accord\n"
        f"    open({str(tmp_path / 'saved')!r}, 'w').close()\n"
        "    raise SystemExit\n"
        "signal.signal(signal.SIGINT, save)\n"
        "os.kill(os.getppid(), signal.SIGINT)  # as Ctrl-C does, to both\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    monkeypatch.setattr(ingredients, "HERE", tmp_path)
    monkeypatch.setattr(ingredients, "RECORDS", tmp_path / "records")
    with pytest.raises(SystemExit, match="the base, seed 0: interrupted; the same command goes on"):
        ingredients.train_all([("the base", 0), ("SGD", 0)])  # and the second does not begin
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (tmp_path / "saved").exists()


def test_the_tables_of_ingredients_are_those_of_the_records(experiments, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)  # from which the teacher of a variant is named
    ingredients, probe = experiments("ingredients"), experiments("probe")
    page = LESSONS.read_text(encoding="utf-8")
    names = [name for name in ingredients.RUNS if ingredients.accuracies(name)]
    for name in names:
        for seed in range(len(ingredients.accuracies(name))):
            record_path = ingredients.path(name, seed)
            record = json.loads(record_path.read_text(encoding="utf-8"))
            monkeypatch.setattr("sys.argv", ["probe.py", *ingredients.RUNS[name].split(), "--out", "a.json"])
            asked = vars(probe._arguments())
            asked |= {"seed": seed, "teacher": asked["teacher"] and [path.name for path in asked["teacher"]]}
            made = record["arguments"]  # an early record lacks what the script had not learned to do yet
            if isinstance(made["teacher"], str):  # and names one teacher, not a list of them
                made["teacher"] = [made["teacher"]]
            assert made["epochs"] == len(record["history"]["test_acc"]) == 12
            for key in made.keys() - {"out", "answers", "compile"}:
                assert made[key] == asked[key] or not (made[key] or asked[key]), f"{record_path.stem}: {key}"
    assert ingredients.table(ingredients.VARIANTS) in page
    spread, words = ingredients.deviation(ingredients.VARIANTS), " ".join(page.split())
    assert {len(ingredients.accuracies(name)) for name in ingredients.VARIANTS} == {2, 4}
    assert len(ingredients.accuracies("the base")) == 4
    standard_error = 100 * spread * math.sqrt(1 / 2 + 1 / 4)
    for quantity in (
        f"as if seeds did as much to each, is {100 * spread:.2f} points",
        f"more than {2.056 * standard_error:.2f} points from the base less than once in twenty times",  # Student's t
        f"one of the 23 is larger than {3.402 * standard_error:.2f} points by chance",  # for 0.05 / 23
    ):
        assert quantity in words
    assert ingredients.table(ingredients.PEERS) in page
    two_and_two = 2.056 * 100 * spread * math.sqrt(1 / 2 + 1 / 2)
    assert f"a difference of more than {two_and_two:.2f} points between two networks of two seeds each" in words
    peers = {name: accuracies for name in ingredients.PEERS if (accuracies := ingredients.accuracies(name))}
    del peers["the base"]
    assert {len(accuracies) for accuracies in peers.values()} == {2}
    assert (
        f"the {len(peers)} networks with two seeds here have {100 * ingredients.deviation(peers):.2f} points" in words
    )
    by_themselves = 2.201 * 100 * ingredients.deviation(peers)  # Student's t
    assert f"By these alone the limit is {by_themselves:.2f} points (11 degrees of freedom)" in words
    means = {name: 100 * statistics.mean(accuracies) for name, accuracies in peers.items()}
    others = ("`small_mirror_net`", "ResNet-20", "DenseNet-BC-40", "`many_scales`")
    leads = [means["`mirror_net`"] - means[name] for name in others]
    assert leads[3] < two_and_two < by_themselves < min(leads[:3])
    assert f"{leads[3]:.2f} of `many_scales`, the last just within the first limit and within the second" in words
    page = " ".join((EXPERIMENTS / "README.md").read_text(encoding="utf-8").split())
    assert f"of `many_scales` just within chance ({leads[3]:.2f} points)" in page
    published = [name for name in means if name.startswith("notebook")]
    scales = {name: means["`many_scales`"] - mean for name, mean in means.items() if name not in published}
    behind = ("`residual_net`", "`wide_residual_net`", "`narrow_mirror_net`", "`small_gated_mirror_net`")
    assert {name for name, lead in scales.items() if lead > two_and_two} == {*behind}
    assert max(scales.values()) < by_themselves
    assert (
        "`residual_net` by {:.2f} points, `wide_residual_net` by {:.2f}, `narrow_mirror_net` by {:.2f} and "
        "`small_gated_mirror_net` by {:.2f}, and the base by more than both.".format(*(scales[name] for name in behind))
        in words
    )
    assert f"`many_scales` is {scales[behind[3]]:.2f} points ahead of `small_gated_mirror_net`" in page
    assert f"and is {scales[behind[3]]:.2f} points behind `many_scales`" in words
    assert (
        "by {:.2f} points of `small_mirror_net`, {:.2f} of ResNet-20, {:.2f} of DenseNet-BC-40 and {:.2f} of "
        "`many_scales`".format(*leads)
        in words
    )
    more = [means[name] - means["`small_mirror_net`"] for name in ("DenseNet-BC-40", "`many_scales`")]
    assert max(map(abs, more)) < two_and_two
    assert f"{more[0]:.2f} points more than `small_mirror_net`" in words
    assert f"{more[1]:.2f} points more than `small_mirror_net`" in words
    gated = [means[name] - means["`small_gated_mirror_net`"] for name in ("`small_mirror_net`", "`many_scales`")]
    assert abs(gated[0]) < two_and_two < gated[1] < by_themselves
    assert f"has {gated[0]:.2f} points less than `small_mirror_net`, within chance" in words
    base = 100 * statistics.mean(ingredients.accuracies("the base"))
    first, second = (means[name] - base for name in published)
    least = min(mean for name, mean in means.items() if name not in published) - means[published[1]]
    assert means["`many_scales`"] - base > by_themselves
    assert f"is {second:.2f} ahead of that, within chance, and {least:.2f} or more behind the rest" in words
    assert f"is behind the base too, by {-first:.2f}." in words
    assert second < 2.056 * standard_error < -first
    reached = "{:.2f}% and {:.2f}%, where `small_residual_net` has {:.2f}%".format(*map(means.get, published), base)
    assert f"The two published networks have {reached}" in page
    losses = {}
    for name in [*peers, "the base"]:
        paths = [ingredients.path(name, seed) for seed in range(len(ingredients.accuracies(name)))]
        ends = [json.loads(path.read_text(encoding="utf-8"))["history"]["test_loss"][-1] for path in paths]
        losses[name] = statistics.mean(ends)
    named = [losses[name] for name in ("`many_scales`", "`small_mirror_net`", "`mirror_net`")]
    assert "({:.3f}, where `small_mirror_net` has {:.3f} and `mirror_net` {:.3f})".format(*named) in words
    by_loss = sorted(losses, key=losses.get)
    assert by_loss[:2] == ["`mirror_net`", "`many_scales`"]
    assert by_loss[-4] == "`small_gated_mirror_net`"
    assert {*by_loss[-3:]} == {"the base", *published}
    assert f"highest loss of all but the base and the published networks ({losses[by_loss[-4]]:.3f})" in words
    taught = [
        statistics.mean(
            json.loads((EXPERIMENTS / "records" / f"{name}_{seed}_test.json").read_text(encoding="utf-8"))["test_acc"]
            for seed in range(3)
        )
        for name in ("small_gated_mirror_net", "small_mirror_net")
    ]
    lead = 100 * (taught[0] - taught[1])
    assert f"with {lead:.2f} points more of the test images than an older one of `small_mirror_net`" in words


def test_the_page_says_how_near_a_run_on_another_machine_comes():
    paths = ("ingredients/the_base_0", "small_residual_net_base_again")
    record, again = (
        json.loads((EXPERIMENTS / "records" / f"{path}.json").read_text(encoding="utf-8")) for path in paths
    )
    early = record["arguments"]  # which lacks what the script had not learned to do yet
    for name, value in again["arguments"].items():
        assert name in ("out", "answers") or early.get(name) == value or not (early.get(name) or value), name
    runs = record["history"]["run"], again["history"]["run"]
    changed = {name for name, value in runs[0].items() if value != runs[1][name]}
    assert changed == {"precision", "images", "test images"}  # of these the name alone
    for images in ("images", "test images"):
        assert runs[0][images].split("checksum")[1] == runs[1][images].split("checksum")[1]
    assert [run["precision"] for run in runs] == ["bfloat16", "float32"]
    curves = [run["history"]["test_acc"] for run in (record, again)]
    apart = max(100 * abs(a - b) for a, b in zip(*curves, strict=True))
    words = " ".join((EXPERIMENTS / "README.md").read_text(encoding="utf-8").split())
    reached = "{:.2%} of the held-back images in place of {:.2%}".format(again["test_acc"], record["test_acc"])
    assert (
        f'{reached} ("test_acc", at the end and in float32), and after no epoch more than {apart:.2f} points' in words
    )


@pytest.fixture
def cut():
    """The trainings that were cut on a GPU: three records of each network, by seed."""
    paths = {name: sorted((EXPERIMENTS / "records" / "cut").glob(f"{name}_[0-2].json")) for name in SIDE_BY_SIDE}
    assert all(len(found) == 3 for found in paths.values())
    return {name: [json.loads(path.read_text(encoding="utf-8")) for path in found] for name, found in paths.items()}


def texts_of(notebook):
    """Return the sources of the cells of text."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def after(records, epoch, key="test_acc"):
    """Return what the records say after an epoch, from 1."""
    return [record["history"][key][epoch - 1] for record in records]


def test_the_cut_trainings_differ_by_network_and_seed_alone(cut):
    settings = []
    for name, records in cut.items():
        for seed, record in enumerate(records):
            arguments = dict(record["arguments"])
            assert (arguments.pop("network"), arguments.pop("seed")) == (name, seed)
            assert {len(values) for values in record["history"].values() if isinstance(values, list)} == {
                record["cut after"]
            }
            del arguments["out"]
            run = dict(record["history"]["run"])
            assert run.pop("seed") == f"{seed}, of the weights {seed}"
            del run["network"]
            settings.append([arguments, run, record["device"]])
    assert len(settings) == 15
    assert all(setting == settings[0] for setting in settings)


def test_the_lessons_compare_the_cut_trainings_as_their_records_say(cut, networks, long_training):
    section = LESSONS.read_text(encoding="utf-8").partition("## Peers by the long training")[2].partition("\n## ")[0]
    words = " ".join(section.split())
    for name, records in cut.items():
        model = (eva.NETWORKS | networks.NETWORKS)[name]().eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 32, 32))
        cells = [f"{sum(p.numel() for p in model.parameters()):,}", f"{counter.get_total_flops() / 2e6:.1f}"]
        lasts = min(record["cut after"] for record in records)
        for epoch in (12, 23, 41):
            accuracies = after(records, min(epoch, lasts))
            deviation = 100 * statistics.stdev(accuracies)
            cells.append(f"{statistics.mean(accuracies):.2%} ± {deviation:.2f}" if epoch <= lasts else "")
        cells.append(f"{statistics.mean(after(records, 41, 'test_loss')):.3f}" if lasts >= 41 else "")
        row = " | ".join([SIDE_BY_SIDE[name], *cells])
        assert re.sub(" +", " ", f"| {row} |") in section, name
    epochs = [record["cut after"] for records in cut.values() for record in records]
    assert f"cut, after {min(epochs)} to {max(epochs)} epochs" in words
    speeds = [
        statistics.median(record["history"]["images_per_second"]) for records in cut.values() for record in records
    ]
    assert f"learned from {round(sum(speeds), -3):,.0f} images a second" in words

    def lead(name, other, epoch):
        return 100 * (statistics.mean(after(cut[name], epoch)) - statistics.mean(after(cut[other], epoch)))

    ahead = [lead("many_scales", "small_mirror_net", epoch) for epoch in (30, 41)]
    assert "by {:.2f} points at epoch 30 and {:.2f} at epoch 41, with 2,475 parameters more".format(*ahead) in words
    assert f"ResNet-20 is {lead('resnet20', 'small_mirror_net', 41):.2f} points ahead of `small_mirror_net`" in words
    shrunk = [lead("mirror_net", "many_scales", epoch) for epoch in (12, 31)]
    assert "shrank from {:.2f} points at epoch 12 to {:.2f} at epoch 31".format(*shrunk) in words
    later = [round(lead("mirror_net", "many_scales", epoch), 1) for epoch in range(31, 42)]
    assert f"stayed between {min(later)} and {max(later)}" in words
    (rate,) = {record["history"]["lr"][40] for record in cut["mirror_net"]}
    assert f"had only fallen to {rate / 0.05:.0%} of the highest" in words
    differences, losses, rates = [], [], []
    for name in ("mirror_net", "small_mirror_net"):
        before = long_training(name)
        for epoch in range(20, min(record["cut after"] for record in cut[name]) + 1):
            differences.append(statistics.mean(after(cut[name], epoch)) - statistics.mean(after(before, epoch)))
        losses += [statistics.mean(after(records, 40, "test_loss")) for records in (cut[name], before)]
        rates.append(before[0]["history"]["lr"][39])
    assert f"within {100 * max(map(abs, differences)):.2f} points of where they were" in words
    assert "at epoch 40 {:.3f} where it was {:.3f}, and {:.3f} where it was {:.3f}".format(*losses) in words
    rates.append(cut["mirror_net"][0]["history"]["lr"][39])
    assert "({:.3f} and {:.3f} at epoch 40, here {:.3f})".format(*rates) in words


def test_notebook_08_draws_the_cut_trainings_as_their_records_say(cut):
    notebook = json.loads((EXPERIMENTS.parent / "notebooks" / "08_record.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    (stated,) = (source for source in sources if source.startswith("longer = "))
    longer = ast.literal_eval(stated.removeprefix("longer = "))
    for name, records in cut.items():
        epochs = range(8, min(record["cut after"] for record in records) + 1, 4)
        means = [round(100 * statistics.mean(after(records, epoch)), 1) for epoch in epochs]
        assert longer.pop(SIDE_BY_SIDE[name].strip("`")) == means
    assert not longer


def test_the_lessons_say_what_large_kernels_brought(networks, cut, long_training):
    section = LESSONS.read_text(encoding="utf-8").partition("## Large kernels")[2].partition("\n## ")[0]
    words = " ".join(section.split())
    printed = (EXPERIMENTS / "records" / "cut" / "large_kernels.md").read_text(encoding="utf-8")
    reached = {}
    for name, lines in re.findall(r"^## (\w+)\n\n```text\n(.*?)```", printed, re.MULTILINE | re.DOTALL):
        columns = [line.split() for line in lines.splitlines()[1:]]
        assert [int(line[0]) for line in columns] == [*range(1, len(columns) + 1)]
        reached[name] = [line[4] for line in columns]
        model = (eva.NETWORKS | networks.NETWORKS)[name]().eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 32, 32))
        size = f"{sum(p.numel() for p in model.parameters()):,} | {counter.get_total_flops() / 2e6:.1f}"
        twelfth = f" {reached[name][11]}" if len(columns) >= 12 else ""
        assert re.search(rf"^\| `{name}`[^|]*\| {size} \| {reached[name][7]} \|{twelfth} \|$", section, re.MULTILINE)
    lengths = [len(accuracies) for accuracies in reached.values()]
    assert f"after {min(lengths)} to {max(lengths)} of them" in words
    at = {
        epoch: {name: float(found[epoch - 1].rstrip("%")) for name, found in reached.items() if len(found) >= epoch}
        for epoch in (8, 12)
    }
    leads = {
        epoch: {name: found["small_gated_mirror_net"] - found[name] for name in found} for epoch, found in at.items()
    }
    wider = leads[8]["gated_mirror_32_96_176"], leads[8]["gated_mirror_32_112_176"]
    assert "of the two wider mirrored ones by {:.2f} and {:.2f} points".format(*wider) in words
    assert f"10 million multiply-adds less, by {leads[12]['large_kernel_net']:.2f} points" in words
    (alike,) = {f"{leads[12][name]:.2f}" for name in ("wide_large_kernel_net", "gated_mirror_32_100")}
    assert f"the mirrored `gated_mirror_32_100` by {alike} each" in words
    behind = (-leads[epoch]["mirror_net"] for epoch in (8, 12))
    assert "`mirror_net` was {:.2f} and {:.2f} ahead of it".format(*behind) in words
    for lead in leads.values():
        assert min(lead[name] for name in set(lead) - {"mirror_net", "small_gated_mirror_net"}) > 0
    assert len(leads[8]) == 8
    assert len(leads[12]) == 5

    records = long_training("small_gated_mirror_net")
    accuracies = [record["test_acc"] for record in records]
    assert f"**{statistics.mean(accuracies):.2%} ± {100 * statistics.stdev(accuracies):.2f}**" in words
    assert "{:.2%}, {:.2%} and {:.2%}".format(*accuracies) in words
    before = long_training("small_mirror_net")
    losses = [statistics.mean(record["history"]["test_loss"][-1] for record in found) for found in (records, before)]
    assert f"the loss is {losses[0]:.3f}" in words
    assert f"has {statistics.mean(record['test_acc'] for record in before):.2%} and {losses[1]:.3f} by" in words
    early = [f"{statistics.mean(after(found, 12)):.2%}" for found in (records, before)]
    assert "at epoch 12 it has {} where `small_mirror_net` had {}".format(*early) in words
    level = [f"{statistics.mean(after(found, 41)):.2%}" for found in (records, before)]
    assert "both are level, {} and {}".format(*level) in words
    peer = [f"{statistics.mean(after(cut['many_scales'], epoch)):.2%}" for epoch in (12, 41)]
    assert "`many_scales`, in the cut training, had {} at epoch 12 and {} at epoch 41".format(*peer) in words
    losses = [statistics.mean(after(found, 41, "test_loss")) for found in (cut["many_scales"], records)]
    assert "the loss is {:.3f} and here {:.3f}".format(*losses) in words
    both = {f"{statistics.mean(after(found, 41)):.1%}" for found in (cut["small_mirror_net"], before)}
    assert both == {"89.1%"}
    assert "in both `small_mirror_net` has 89.1% at epoch 41" in words
    page = " ".join((EXPERIMENTS / "README.md").read_text(encoding="utf-8").split())
    assert f"At epoch 41 it had {level[0]}, where `many_scales` had had {peer[1]}" in page
    away = 100 * (0.91 - round(statistics.mean(accuracies), 4))
    assert f"The next aim, 91%, is {away:.2f} points away" in words
    assert f"91% is {away:.2f} points away" in page
    assert f"one of its three seeds has {max(accuracies):.2%}" in page
    large = long_training("mirror_net")
    agreed = [statistics.mean(after(found, 0, "train_acc")) for found in (records, large, before)]
    assert (
        "on {:.1%} of the images shown, `mirror_net` on {:.1%}, `small_mirror_net` on {:.1%}".format(*agreed) in words
    )
    rise = 100 * (statistics.mean(after(records, 105)) - statistics.mean(after(records, 90)))
    assert f"From epoch 90 on the accuracy rose by {rise:.2f} points" in words
    steps = sorted(250e3 / statistics.median(record["history"]["images_per_second"]) for record in records)
    assert f"{steps[0]:.1f} to {steps[-1]:.1f} milliseconds a step" in words
    rates = [after(records, epoch, "lr")[0] / 0.05 for epoch in (90, 105)]
    assert "the rate fell from {:.0%} to {:.0%} of the highest".format(*rates) in words


def test_notebook_08_draws_the_taught_trainings_as_their_records_say(cut, long_training):
    notebook = json.loads((EXPERIMENTS.parent / "notebooks" / "08_record.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    (stated,) = (source for source in sources if source.startswith("taught = "))
    taught = ast.literal_eval(stated.removeprefix("taught = "))
    assert list(taught) == ["mirror_net", "small_gated_mirror_net", "small_mirror_net"]
    losses = []
    for name, accuracies in taught.items():
        records = long_training(name)
        assert accuracies == [round(100 * statistics.mean(after(records, epoch)), 1) for epoch in range(7, 106, 14)]
        losses.append(statistics.mean(after(records, 0, "test_loss")))
    (says,) = [text for text in sources if text.startswith("After 12 epochs it is")]
    trained = [long_training(name) for name in taught]
    twelfth = [statistics.mean(after(records, 12)) for records in trained]
    means = [statistics.mean(record["test_acc"] for record in records) for records in trained]
    ahead, behind = 100 * (means[1] - means[2]), 100 * (means[0] - means[1])
    assert f"it is {100 * (twelfth[2] - twelfth[1]):.2f} points behind `small_mirror_net`" in says
    assert f"at the end {ahead:.2f} ahead, and {behind:.2f} behind `mirror_net`" in says
    assert f"{ahead:.2f} points more than `small_mirror_net`" in "".join(sources)
    assert f"and {behind:.2f} less than `mirror_net`" in "".join(sources)
    assert f"({losses[1]:.3f}, where `small_mirror_net` has {losses[2]:.3f} and `mirror_net` {losses[0]:.3f})" in says
    parts = [
        f"{statistics.mean(after(found, 41)):.1%}"
        for found in (cut["many_scales"], long_training("small_gated_mirror_net"), long_training("small_mirror_net"))
    ]
    assert "had {} after 41 epochs, where this one has {} (and `small_mirror_net` {} in both)".format(*parts) in says
    teacher = json.loads((EXPERIMENTS / "records" / "residual_teacher_1.json").read_text(encoding="utf-8"))["test_acc"]
    for page in ("".join(sources), (EXPERIMENTS.parent / "README.md").read_text(encoding="utf-8")):
        assert f"{teacher:.2%}" in page
    printed = (EXPERIMENTS / "records" / "cut" / "large_kernels.md").read_text(encoding="utf-8")
    of_mirror, of_gated = (printed.partition(f"## {name}\n")[2] for name in ("mirror_net", "small_gated_mirror_net"))
    quoted = [
        f"{float(re.findall(rf'^ +{epoch} .*', lines, re.MULTILINE)[0].split()[4].rstrip('%')):.1f}%"
        for lines in (of_gated, of_mirror)
        for epoch in (8, 12)
    ]
    assert "{} after 8 epochs and {} after 12, where that has {} and {}".format(*quoted) in "".join(sources)


def test_the_pages_say_what_wrong_gradients_cost(experiments):
    folder = EXPERIMENTS / "records"
    wrong = [
        json.loads((folder / f"small_gated_mirror_net_bfloat16_{seed}.json").read_text(encoding="utf-8"))
        for seed in (0, 1)
    ]
    right = [
        json.loads((folder / "ingredients" / f"small_gated_mirror_net_{seed}.json").read_text(encoding="utf-8"))
        for seed in (0, 1)
    ]
    section = LESSONS.read_text(encoding="utf-8").partition("**Wrong gradients.**")[2]
    words = " ".join(section.split())
    pairs = list(zip(right, wrong, strict=True))
    assert "ended at {:.2%} and {:.2%} of the held-back images".format(*(run["test_acc"] for run in wrong)) in words
    for one, other in pairs:
        runs = one["history"]["run"], other["history"]["run"]
        assert one["arguments"] == other["arguments"]
        assert {name for name, value in runs[0].items() if value != runs[1][name]} == {"precision"}
        assert runs[0]["precision"] == "float32"
    curves = [run["history"][key] for run in (right[0], wrong[0]) for key in ("train_acc", "test_acc")]
    for epoch, accuracies in enumerate(zip(*curves, strict=True), start=1):
        quoted = " | ".join(f"{accuracy:.2%}" for accuracy in accuracies)
        assert f"\n| {epoch} | {quoted} |\n" in section
    gaps = [
        [100 * (one["history"]["train_acc"][-1] - other["history"]["train_acc"][-1]) for one, other in pairs],
        [100 * (one["test_acc"] - other["test_acc"]) for one, other in pairs],
    ]
    assert (
        f"{gaps[0][0]:.2f} points lower on the augmented training images and {gaps[1][0]:.2f} on those held back"
        in words
    )
    tenth = 100 * (pairs[1][0]["history"]["test_acc"][9] - pairs[1][1]["history"]["test_acc"][9])
    assert f"({tenth:.2f} after epoch 10, where the one in bfloat16 lost three points for a while)" in words
    early = max(
        100 * abs(a - b)
        for key in ("train_acc", "test_acc")
        for a, b in zip(*(run["history"][key][:2] for run in pairs[1]), strict=True)
    )
    ends = "held back, {:.2%} in place of {:.2%}".format(*(run["test_acc"] for run in pairs[1]))
    assert f"no more than {early:.2f} points apart in the first two epochs" in words
    assert f"at the end {gaps[0][1]:.2f} on the training images and {gaps[1][1]:.2f} on those {ends}" in words
    assert f"some three and a half points ({statistics.mean(gaps[1]):.2f} on the average of two seeds" in words
    page = " ".join((EXPERIMENTS / "README.md").read_text(encoding="utf-8").split())
    reached = "{:.2%} and {:.2%}".format(*(run["test_acc"] for run in right))
    assert "the same two seeds have {}, {:.2f} and {:.2f} points further".format(reached, *gaps[1]) in page
    seeds = [
        json.loads((folder / "ingredients" / f"small_mirror_net_{seed}.json").read_text(encoding="utf-8"))["history"]
        for seed in (0, 1)
    ]
    apart = [
        100 * abs(a - b)
        for key in ("train_acc", "test_acc")
        for a, b in zip(*(run[key][2:] for run in seeds), strict=True)
    ]
    assert f"are never more than {max(apart):.2f} points apart" in words
    assert max(apart) < min(gaps[0] + gaps[1])
    ingredients = experiments("ingredients")
    mean = statistics.mean(run["test_acc"] for run in right)
    less, behind = (
        100 * (statistics.mean(ingredients.accuracies(name)) - mean) for name in ("`small_mirror_net`", "`mirror_net`")
    )
    peers = [name for name in ingredients.PEERS if name != "the base"]
    limits = [  # by Student's t for 26 and 11 degrees of freedom
        times * 100 * ingredients.deviation(names) for times, names in ((2.056, ingredients.VARIANTS), (2.201, peers))
    ]
    assert less < min(limits) < max(limits) < behind
    lower = [
        name
        for name in ingredients.PEERS
        if statistics.mean(ingredients.accuracies(name)) < statistics.mean(run["test_acc"] for run in wrong)
    ]
    assert lower == ["notebook 04's network"]
    assert "of the held-back images, behind all others but notebook 04's network" in words
    assert (
        f"Their mean, {mean:.2%}, is level with `small_mirror_net`, {less:.2f} points less, within chance, and "
        f"{behind:.2f} behind `mirror_net`" in page
    )
    notebook = json.loads((EXPERIMENTS.parent / "notebooks" / "08_record.ipynb").read_text(encoding="utf-8"))
    texts = " ".join(texts_of(notebook))
    quoted = "ended at {:.2%} and {:.2%}; run anew in float32 they have {:.2%} and {:.2%}"
    assert quoted.format(*(run["test_acc"] for run in [*wrong, *right])) in texts


def test_the_pages_say_that_wrong_gradients_cost_many_scales_little():
    paths = ("ingredients/many_scales_0", "ingredients/many_scales_1", "many_scales_bfloat16_1")
    first, anew, wrong = (
        json.loads((EXPERIMENTS / "records" / f"{path}.json").read_text(encoding="utf-8")) for path in paths
    )
    runs = anew["history"]["run"], wrong["history"]["run"]
    assert anew["arguments"] == wrong["arguments"]
    assert {name for name, value in runs[0].items() if value != runs[1][name]} == {"precision"}
    assert runs[0]["precision"] == "float32"
    words = " ".join(LESSONS.read_text(encoding="utf-8").partition("**Wrong gradients.**")[2].split())
    reached = "{:.2%} in place of {:.2%}".format(anew["test_acc"], wrong["test_acc"])
    assert f"The second seed of `many_scales` was run anew as well, in float32: {reached}." in words
    learned, held_back = (
        [100 * (a - b) for a, b in zip(*(run["history"][key] for run in (anew, wrong)), strict=True)]
        for key in ("train_acc", "test_acc")
    )
    assert min(learned[1:]) > 0
    says = f"by no more than {max(learned[1:]):.2f} points and by {learned[-1]:.2f} at the end"
    assert f"ahead of the one with wrong gradients on the augmented training images, {says}" in words
    apart = max(map(abs, held_back[2:]))
    assert f"on those held back the two are never more than {apart:.2f} points apart after the second epoch" in words
    behind = [100 * (a - b) for a, b in zip(*(run["history"]["test_acc"] for run in (first, wrong)), strict=True)]
    span = f"{min(behind[2:11]):.2f} to {max(behind[2:11]):.2f} points after each of the epochs 3 to 11"
    assert f"behind the first by {span} and ended {-behind[11]:.2f} ahead" in words
    ahead = 100 * (wrong["test_acc"] - first["test_acc"])
    assert f"ahead ({ahead:.2f} by the test at the end, in float32)" in words
    page = " ".join((EXPERIMENTS / "README.md").read_text(encoding="utf-8").split())
    assert f"run anew for 11, it has {reached}." in page
    notebook = json.loads((EXPERIMENTS.parent / "notebooks" / "08_record.ipynb").read_text(encoding="utf-8"))
    texts = " ".join(texts_of(notebook))
    quoted = "the second of `many_scales` had {:.2%}, and has {:.2%} now"
    assert quoted.format(wrong["test_acc"], anew["test_acc"]) in texts


def test_the_pages_say_what_the_mean_of_two_weights_brought(stages):
    folder = EXPERIMENTS / "records"
    rounds = [stages(folder / f"mirror_net_{seed}_test.json") for seed in range(3)]
    assert {(len(of_one), of_one[0]["arguments"]["mean_with_start"]) for of_one in rounds} == {(2, True)}
    means, firsts = ([record["test_acc"] for record in found] for found in zip(*rounds, strict=True))
    ended = [mean for mean, _ in rounds]
    ends = after(ended, 20)
    notebook = json.loads((EXPERIMENTS.parent / "notebooks" / "08_record.ipynb").read_text(encoding="utf-8"))
    (says,) = (text for text in texts_of(notebook) if "### The mean of two" in text)
    for seed, (first, end, mean) in enumerate(zip(firsts, ends, means, strict=True)):
        assert f"| {seed} | {first:.2%} | {end:.2%} | **{mean:.2%}** |" in says
        assert mean > max(first, end)
    words = " ".join(LESSONS.read_text(encoding="utf-8").split())
    both = ["{:.2%}, {:.2%} and {:.2%}".format(*found) for found in (ends, firsts, means)]
    assert "brought nothing either: {} at the last epoch, in bfloat16, after {}.".format(*both) in words
    assert f"with each seed: {both[2]}, **{statistics.mean(means):.2%} ± {100 * statistics.stdev(means):.2f}**" in words
    losses = [
        statistics.mean(
            json.loads((folder / "mirrored" / f"{name}_{seed}_test.json").read_text(encoding="utf-8"))["alone"]["loss"]
            for seed in range(3)
        )
        for name in ("mirror_net_106_epochs", "mirror_net")
    ]
    assert "The loss rose, from {:.3f} to {:.3f} (float32;".format(*losses) in words
    assert "their loss rose, from {:.3f} to {:.3f}.)".format(*losses) in says
    assert "(float32; {:.3f} at the end".format(statistics.mean(after(ended, 20, "test_loss"))) in words
    gains = [100 * (mean - first) for mean, first in zip(means, firsts, strict=True)]
    gain, error = statistics.mean(gains), statistics.stdev(gains) / math.sqrt(3)
    assert "is {:.2f}, {:.2f} and {:.2f} points: {:.2f}, of which".format(*gains, gain) in words
    assert f"(Student's t {gain / error:.1f}, two degrees of freedom)" in words
    assert f"by {gain:.2f} points, which may be chance with three seeds" in says
    over, error = statistics.mean(means) - 0.915, statistics.stdev(means) / math.sqrt(3)
    assert f"And 91.5% is passed by {100 * over:.2f}, with a standard error of {100 * error:.2f}" in words
    page = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    assert f"**{statistics.mean(means):.2%} ± {100 * statistics.stdev(means):.2f}** by `mirror_net`" in page
    assert f"{statistics.mean(firsts):.2%} for `mirror_net`" in page
    readme = " ".join((EXPERIMENTS.parent / "README.md").read_text(encoding="utf-8").split())
    assert f"`mirror_net` had {statistics.mean(firsts):.2%} ± {100 * statistics.stdev(firsts):.2f} then" in readme
    assert f"({gain:.2f} points more than before, which may be chance;" in readme
    names = ("small_mirror_net", "mirror_net", "small_gated_mirror_net")
    shipped = [json.loads((folder / f"{name}_0_test.json").read_text(encoding="utf-8"))["test_acc"] for name in names]
    assert "the first seed's, which have {:.2%}, {:.2%} and {:.2%}.".format(*shipped) in readme


def test_the_pooled_deviation_weighs_each_variant_by_its_seeds(experiments, monkeypatch):
    ingredients = experiments("ingredients")
    seeds = {"of one": [0.5], "of two": [0.80, 0.82], "of three": [0.6, 0.7, 0.8]}  # variances 0.0002 and 0.01
    monkeypatch.setattr(ingredients, "accuracies", seeds.get)
    assert ingredients.deviation(seeds) == pytest.approx(math.sqrt((0.0002 + 2 * 0.01) / 3))
    assert math.isnan(ingredients.deviation(["of one"]))


def plain_depthwise(channels, kernel_size, dilation):
    """Return torch's own form of a quick depthwise layer."""
    padding = dilation * (kernel_size // 2)
    return nn.Conv2d(channels, channels, kernel_size, padding=padding, dilation=dilation, groups=channels)


def test_notebook_08_compares_the_networks_as_their_records_say(experiments, networks, monkeypatch):
    ingredients = experiments("ingredients")
    notebook = json.loads((EXPERIMENTS.parent / "notebooks" / "08_record.ipynb").read_text(encoding="utf-8"))
    cells = {"".join(cell["source"]): cell for cell in notebook["cells"] if cell["cell_type"] == "code"}
    (stated,) = (source for source in cells if source.startswith("alike = "))
    (table,) = (cell for source, cell in cells.items() if "in alike.items():\n    print" in source)
    alike = ast.literal_eval(stated.removeprefix("alike = "))
    alike |= ast.literal_eval(re.match(r"alike \|= ({.*?})", "".join(table["source"]), re.DOTALL)[1])
    assert {"ResNet-20", "DenseNet-BC-40", "small_mirror_net", "residual_net"} <= alike.keys()
    for (name, figures), printed in zip(alike.items(), table["outputs"][0]["text"][1:], strict=True):
        run = "the base" if name == "small_residual_net" else name if name in ingredients.RUNS else f"`{name}`"
        build = (eva.NETWORKS | networks.NETWORKS)[re.findall(r"--network (\w+)", ingredients.RUNS[run])[-1]]
        model = build().eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 32, 32))
        accuracies = [round(accuracy, 4) for accuracy in ingredients.accuracies(run)]
        count = sum(p.numel() for p in model.parameters())
        with monkeypatch.context() as patch:
            patch.setattr(networks, "QuickDepthwise", plain_depthwise)  # whose subgrids would hide the field
            field = "x".join(map(str, dict.fromkeys(eva.receptive_field(build()).before_pooling)))
        assert figures == (count, round(counter.get_total_flops() / 2e6, 1), field, accuracies)
        assert f" {statistics.mean(accuracies):.2%}" in printed
    means = {name: 100 * statistics.mean(accuracies) for name, (*_, accuracies) in alike.items()}
    (says,) = (text for text in texts_of(notebook) if text.startswith("Four seeds of the first network"))
    leads = {name: means["mirror_net"] - mean for name, mean in means.items() if name != "mirror_net"}
    assert f"but for `many_scales` ({leads.pop('many_scales'):.2f}, just within chance)" in says
    assert min(leads.values()) > 1  # "a point or more ahead of each"
    three = ("small_residual_net", "notebook 04's network", "notebook 05's network")
    first, second, third = (means[name] for name in three)
    assert f"Notebook 04's network, the cheapest, is {first - second:.1f} points behind `small_residual_net`" in says
    assert 0 < third - first < 0.6  # "as good as that, within chance"
    others = {name: mean for name, mean in means.items() if name in leads.keys() - {*three}}
    assert min(others.values()) - third > 1.8  # "1.8 points or more ahead of these three"
    assert f"These seven are within {max(others.values()) - min(others.values()):.1f} points of each other." in says
    assert len(others) == 7
    behind = {name: means["many_scales"] - mean for name, mean in others.items()}
    named = ("narrow_mirror_net", "small_gated_mirror_net", "residual_net", "wide_residual_net")
    assert {f"{behind.pop(name):.1f}" for name in named} == {"0.8"}
    assert behind.keys() == {"small_mirror_net", "ResNet-20", "DenseNet-BC-40"}
    assert max(behind.values()) < 0.7  # "within chance" of these


def test_the_lessons_say_what_kernels_that_are_used_twice_bring(experiments):
    page = LESSONS.read_text(encoding="utf-8")
    section = " ".join(page.partition("## Kernels used twice")[2].partition("\n## ")[0].split())
    ingredients = experiments("ingredients")
    reached = {name: ingredients.accuracies(name) for name in ingredients.PEERS}
    for name in ("`small_mirror_net`", "`wide_residual_net`", "`narrow_mirror_net`", "`residual_net`", "ResNet-20"):
        assert f"{statistics.mean(reached[name]):.2%}" in section, name
    gain = 100 * (statistics.mean(reached["`small_mirror_net`"]) - statistics.mean(reached["the base"]))
    assert f"{gain:.2f} points more than the base" in section
    curves = {}
    for name in ("the base", "`small_mirror_net`"):
        paths = [ingredients.path(name, seed) for seed in range(len(reached[name]))]
        curves[name] = [json.loads(path.read_text(encoding="utf-8"))["history"]["test_acc"] for path in paths]
    assert len(curves["the base"]) == 4
    for epoch in range(12):
        highest = max(curve[epoch] for curve in curves["the base"])
        assert all(curve[epoch] > highest for curve in curves["`small_mirror_net`"])
    longer = json.loads((EXPERIMENTS / "records" / "small_residual_net_24.json").read_text(encoding="utf-8"))
    assert (
        "24 epochs of the base, with a rate that falls to 0, cost about as much as 12 of this one, and reach "
        in section
    )
    assert f"{longer['test_acc']:.2%}" in section
    wide = json.loads((EXPERIMENTS / "records" / "mirrored" / "wide_residual_net_0.json").read_text(encoding="utf-8"))
    assert f"{wide['mirrored']['acc']:.2%} with the mirror image" in section


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_list_of_runs_quotes_each_record(path):
    page = (EXPERIMENTS / "records" / "README.md").read_text(encoding="utf-8")
    record = json.loads(path.read_text(encoding="utf-8"))
    (row,) = re.findall(rf"^\|.*\| `{path.stem}` \|$", page, re.MULTILINE)
    assert f"| {record['test_acc']:.2%} |" in row
    assert f"| {record['arguments']['epochs']} |" in row
    assert f"`{record['arguments']['network']}`" in row


@pytest.mark.parametrize(
    "path",
    [path for path in RECORDS if path.stem in SHIPPED or path.with_suffix(".weights").exists()],
    ids=lambda path: path.stem,
)
def test_the_weights_do_what_their_record_says(experiments, real_images, path):
    record = json.loads(path.read_text(encoding="utf-8"))
    train_set, test_set = real_images
    if record["arguments"]["hold_out"]:
        _, test_set = eva.hold_out(train_set, record["arguments"]["hold_out"])
    images = f"checksum {test_set.checksum}"
    if not record["history"]["run"]["test images"].endswith(images):
        pytest.skip("the record is of other images")
    shipped, near = SHIPPED.get(path.stem), 0.0005
    if not shipped and "H100" in record.get("device", ""):  # other seeds: on all images they would take minutes more
        test_set, near = test_set.subset(np.random.default_rng(0).permutation(len(test_set))[:2000]), 0.02
    model = eva.load_pretrained(shipped) if shipped else experiments("probe").load(path, len(test_set.classes))
    model.to(memory_format=torch.channels_last)
    loader = eva.make_loader(test_set, eva.eval_policy(), batch_size=100, fast=True)
    if path.stem not in MIRRORED_TOO:
        assert eva.evaluate(model, loader).acc == pytest.approx(record["test_acc"], abs=near)
        return
    alone, both = both_ways(model, loader)
    mirrored = json.loads((EXPERIMENTS / "records" / "mirrored" / path.name).read_text(encoding="utf-8"))
    assert mirrored["tested on"].endswith(images)
    assert alone.accuracy == pytest.approx(record["test_acc"], abs=near)
    assert both.accuracy == pytest.approx(mirrored["mirrored"]["acc"], abs=near)


def both_ways(network, loader):
    """Return what a network says alone and with the mirror images, in one pass: Mirrored asks it about both in turn."""
    said = []
    handle = network.register_forward_hook(lambda _module, _images, logits: said.append(logits))
    both = eva.predict(eva.Mirrored(network), loader)
    handle.remove()
    return eva.Predictions(torch.cat(said[::2]), both.labels), both
