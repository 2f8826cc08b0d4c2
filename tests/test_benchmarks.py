"""The benchmarks run, and print the tables that they say."""

import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    """A function that imports a benchmark, which is a script and no module of the package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def printed(script, monkeypatch, tmp_path, capsys):
    """A function that runs a benchmark, in this process, as starting one takes seconds, and returns what it prints."""
    monkeypatch.setenv("EVA_SMOKE", "1")
    quick = functools.partial(script("throughput").matrix_rate, size=256)
    monkeypatch.setattr(script("throughput"), "matrix_rate", quick)
    threads = torch.get_num_threads()

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options, "--out", str(tmp_path / "record.json")])
        script(name).main()
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("throughput --count 64 --rounds 1 --images shapes", "| fit, fast loader, float32 |"),
        ("input_side --rounds 1 --images shapes", "| the whole policy |"),
        ("startup --rounds 1", "| the same and eva_utils |"),
        ("time_to_accuracy --loop fit --epochs 1 --images shapes", "| 85.0% |"),
        ("time_to_accuracy --recipe short --loop usual --epochs 1 --images shapes", "| 85.0% |"),
        ("seeds --seeds 2 --count 100 --epochs 1 --images shapes", "| ordinary loader, float"),
    ],
)
def test_each_prints_its_table_and_writes_its_record(printed, tmp_path, command, says):
    assert says in printed(*command.split())
    assert json.loads((tmp_path / "record.json").read_text())["machine"]["cores"] >= 1


def test_the_throughput_of_one_network_is_measured_alone(printed):
    said = printed("throughput", "--network", "dilated_net", "--count", "64", "--rounds", "1", "--images", "shapes")
    assert [line.split()[0] for line in said.splitlines() if line.endswith(", shapes")] == ["dilated_net"]


def started(name, *options):
    """Return what a benchmark prints that is started from the shell."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / f"{name}.py"), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "EVA_SMOKE": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("repeatability --epochs 1 --count 272 --images shapes", "| dilated_net | deterministic | equal |"),
        ("busy --count 64 --cores 1 --images shapes", "| aten::convolution_backward |"),
    ],
)
def test_each_that_changes_its_process_does_too(tmp_path, command, says):
    """The first tells cuBLAS before CUDA starts, the second keeps itself to fewer cores."""
    assert says in started(*command.split(), "--out", tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text())["machine"]["cores"] >= 1


def test_the_time_that_intervals_cover_is_counted_once(script):
    busy_share = script("busy").busy_share
    assert busy_share([(0, 10)]) == 1
    assert busy_share([(8, 10), (0, 2), (1, 4), (1, 2)]) == 0.6


def test_kernels_count_once_and_annotations_not(script):
    kinds = {"operation": {}, "kernel": {"device_type": DeviceType.CUDA}}
    kinds["annotation"] = kinds["kernel"] | {"is_user_annotation": True}
    events = [FunctionEvent(number, name, 0, 0, 9, **kind) for number, (name, kind) in enumerate(kinds.items())]
    assert [event.name for event in script("busy").on_gpu(events)] == ["kernel"]


def test_a_spread_is_written_out(script):
    spread = script("common").spread
    assert spread([12_345.6, 9_999.4, 20_000]) == "12,346 (9,999 to 20,000)"
    assert spread([0.012345, 123.456, 1]) == "1 (0.01235 to 123.5)"


def test_the_numbers_that_layers_move_are_counted_by_hand(script):
    throughput = script("throughput")
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    assert throughput.moved_numbers(layers) == 3 * 3 * 1024 + 2 * 8 * 256 + 5 * 8 * 256
    assert throughput.forward_flops(layers) == 2 * 27 * 8 * 256


def test_the_time_to_an_accuracy_is_read_off_the_record_of_a_notebook(printed):
    record = ROOT / "results" / "dilated_separable_net.json"
    assert "| 85.0% | " in printed("time_to_accuracy", "--record", str(record))


def test_the_first_epoch_that_reaches_an_accuracy_counts(tmp_path):
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"history": {"seconds": [10, 20, 30, 40], "test_acc": [0.5, 0.86, 0.84, 0.9]}}))
    out = started("time_to_accuracy", "--record", record, "--out", tmp_path / "out.json")
    assert "| 85.0% | 30.0 | 2 |\n| 88.7% | 100.0 | 4 |" in out
    assert json.loads((tmp_path / "out.json").read_text())["machine"]["cores"] >= 1
