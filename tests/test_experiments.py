"""The experiments run, and their page says what their records say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
RECORDS = sorted((EXPERIMENTS / "records").glob("*.json"))


@pytest.fixture
def networks(monkeypatch):
    """The experiments' networks, which are no module of the package."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import networks

    return networks


def test_the_peers_have_as_many_parameters_as_published(networks):
    published = {"resnet20": 272_474, "densenet40": 176_122, "many_scales": 97_530}
    for name, count in published.items():
        assert sum(p.numel() for p in networks.NETWORKS[name]().parameters()) == count


def test_all_networks_give_logits_and_learn_in_all_their_layers(networks):
    images = torch.randn(2, 3, 32, 32)
    for name, factory in networks.NETWORKS.items():
        model = factory(num_classes=7)
        logits = model(images)
        assert logits.shape == (2, 7), name
        F.cross_entropy(logits, torch.tensor([1, 4])).backward()
        silent = [key for key, p in model.named_parameters() if not p.grad.any() and not key.endswith("bias")]
        assert not silent, name


@pytest.mark.parametrize(
    "options",
    [
        ["--network", "small", "--affine", "0.5", "--jitter", "0.2", "--grey", "0.1", "--mixup", "0.2"],
        ["--optimizer", "muon", "--teacher", "dilated_separable_net", "--strided-dilation", "2", "--hold-out", "0"],
    ],
    ids=["policy", "teacher"],
)
def test_a_probe_writes_its_record(tmp_path, monkeypatch, options):
    monkeypatch.setenv("EVA_SMOKE", "1")
    out = tmp_path / "probe.json"
    command = [sys.executable, "-W", "ignore", str(EXPERIMENTS / "probe.py"), "--epochs", "1", "--out", str(out)]
    done = subprocess.run(
        [*command, "--hold-out", "100", *options], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert f"probe: {record['test_acc']:.2%} of {record['tested on']}" in done.stdout
    assert record["arguments"]["network"] == ("small" if "small" in options else "dilated_net")
    run = record["history"]["run"]
    if "small" in options:
        assert all(name in run["policy"] for name in ("Affine", "ColorJitter", "ToGray", "CoarseDropout"))
        assert run["batch transform"].startswith("MixUp(alpha=0.2")
    else:
        assert run["batch transform"].startswith("Distillation(DilatedSeparableNet")
        assert run["optimizer"].startswith("Muon")
        assert record["tested on"].startswith("ImageSet")


def test_a_teacher_that_saw_the_held_back_images_is_refused(tmp_path):
    command = [
        sys.executable,
        str(EXPERIMENTS / "probe.py"),
        "--teacher",
        "dilated_net",
        "--out",
        str(tmp_path / "a.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "add --hold-out 0" in done.stderr


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_page_quotes_each_record(path):
    page = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    record = json.loads(path.read_text(encoding="utf-8"))
    (row,) = re.findall(rf"^\|.*\| `{path.stem}` \|$", page, re.MULTILINE)
    assert f"| {record['test_acc']:.2%} |" in row
    assert f"| {record['arguments']['epochs']} |" in row
    assert f"`{record['arguments']['network']}`" in row
