"""The benchmarks run, and print the tables that they say."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["throughput.py", "--count", "256", "--rounds", "1", "--images", "shapes"], "| fit, fast loader, float32 |"),
        (["input_side.py", "--rounds", "1", "--images", "shapes"], "| the whole policy |"),
        (["startup.py", "--rounds", "1"], "| the same and eva_utils |"),
        (["repeatability.py", "--epochs", "1", "--images", "shapes"], "| dilated_net | deterministic | equal |"),
        (["time_to_accuracy.py", "--loop", "fit", "--epochs", "1", "--images", "shapes"], "| 85.0% |"),
        (
            ["time_to_accuracy.py", "--recipe", "short", "--loop", "usual", "--epochs", "1", "--images", "shapes"],
            "| 85.0% |",
        ),
        (
            ["seeds.py", "--seeds", "2", "--count", "100", "--epochs", "1", "--images", "shapes"],
            "| ordinary loader, float",
        ),
        (["busy.py", "--count", "256", "--cores", "1", "--images", "shapes"], "| aten::convolution_backward |"),
        (["time_to_accuracy.py", "--record", str(ROOT / "results" / "dilated_separable_net.json")], "| 85.0% | "),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_each_prints_its_table_and_writes_its_record(tmp_path, command, says):
    script, *arguments = command
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            str(ROOT / "benchmarks" / script),
            *arguments,
            "--out",
            str(tmp_path / "record.json"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "EVA_SMOKE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["machine"]["cores"] >= 1


@pytest.fixture
def script(monkeypatch):
    """A function that imports a benchmark, which is a script and no module of the package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_the_time_that_intervals_cover_is_counted_once(script):
    busy_share = script("busy").busy_share
    assert busy_share([(0, 10)]) == 1
    assert busy_share([(8, 10), (0, 2), (1, 4), (1, 2)]) == 0.6


def test_the_numbers_that_layers_move_are_counted_by_hand(script):
    throughput = script("throughput")
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    assert throughput.moved_numbers(layers) == 3 * 3 * 1024 + 2 * 8 * 256 + 5 * 8 * 256
    assert throughput.forward_flops(layers) == 2 * 27 * 8 * 256


def test_the_first_epoch_that_reaches_an_accuracy_counts(tmp_path):
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"history": {"seconds": [10, 20, 30, 40], "test_acc": [0.5, 0.86, 0.84, 0.9]}}))
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(ROOT / "benchmarks" / "time_to_accuracy.py"),
        "--record",
        str(record),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| 85.0% | 30.0 | 2 |\n| 88.7% | 100.0 | 4 |" in done.stdout
