import collections
import json
import math
import re
import statistics
from pathlib import Path

import pytest

from eva_utils.models import NETWORKS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = sorted((ROOT / "results").glob("*.json"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_every_record_is_quoted():
    assert RECORDS
    cells = [cell for path in NOTEBOOKS for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    titles = "\n".join("".join(cell["source"]) for cell in cells if cell["id"].endswith("-00"))
    printed = "\n".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))
    for path in RECORDS:
        record = json.loads(path.read_text(encoding="utf-8"))
        accuracy = f"{record['test_acc']:.2%}"
        quoted = accuracy in titles or re.search(rf"^{re.escape(record['network'])} +{accuracy}", printed, re.MULTILINE)
        assert path.stem in NETWORKS or quoted, path


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_of_results_says_what_the_record_says(run, stages, name):
    path = ROOT / "results" / f"{name}.json"
    (row,) = re.findall(rf"^\| `{name}` \| .*$", README, re.MULTILINE)
    if not path.exists():
        assert row == probed_row(name, stages)
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    assert row == run.table_row(record)
    assert record["network"] == name
    assert record["settings"]["epochs"] == len(record["history"]["test_acc"])
    # in float32; after each epoch the network was tested in the precision that it was trained in
    assert record["test_acc"] == pytest.approx(record["history"]["test_acc"][-1], abs=0.003)


def probed_row(name, stages):
    """Return the row of a network that no notebook trains: mean and deviation of its seeds, the first one's time."""
    paths = sorted((ROOT / "experiments" / "records").glob(f"{name}_[0-9]_test.json"))
    trainings = [stages(path)[::-1] for path in paths]
    assert [training[-1]["arguments"]["seed"] for training in trainings] == [*range(len(trainings))]
    (epochs,) = {tuple(record["arguments"]["epochs"] for record in training) for training in trainings}
    assert {tuple(len(record["history"]["test_acc"]) for record in training) for training in trainings} == {epochs}
    accuracies = [training[-1]["test_acc"] for training in trainings]
    deviation = f" ± {100 * statistics.stdev(accuracies):.2f}, {len(paths)} seeds" if len(paths) > 1 else ""
    seconds = collections.defaultdict(int)
    for record in trainings[0]:
        seconds[record.get("device", "cpu")] += sum(record["history"]["seconds"])
    train_acc = statistics.mean(training[-1]["history"]["train_acc"][-1] for training in trainings)
    learned = "(taught)" if trainings[0][-1]["arguments"]["teacher"] else f"{train_acc:.2%}"
    cells = (
        f"`{name}`",
        f"{trainings[0][-1]['parameters']:,}",
        " + ".join(map(str, epochs)),
        f"{statistics.mean(accuracies):.2%}{deviation}",
        learned,
        "CIFAR-10, JPEG q75",
        "; ".join(f"{device}, {spent / 60:.0f} minutes" for device, spent in seconds.items()),
    )
    return f"| {' | '.join(cells)} |"


def test_what_a_teacher_brings_the_published_networks_is_what_the_records_say():
    folder, quoted = ROOT / "experiments" / "records", []
    for name in ("dilated_net_36_epochs", "dilated_net_116_epochs", "dilated_separable_net_106_epochs"):
        paths = [folder / f"{name}_{seed}_test.json" for seed in range(3)]
        records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        both = [json.loads((folder / "mirrored" / path.name).read_text(encoding="utf-8")) for path in paths]
        assert {len(record["history"]["test_acc"]) for record in records} == {int(name.split("_")[-2])}
        accuracies = [record["test_acc"] for record in records]
        spread = f"{statistics.mean(accuracies):.2%} ± {100 * statistics.stdev(accuracies):.2f}"
        quoted.append((spread, f"{statistics.mean(record['mirrored']['acc'] for record in both):.2%}"))
    (short, first), (long, second), (other, third) = quoted
    text = " ".join(README.split())
    assert f"the first {short} in its 36 epochs and {long} in 116, the second {other} in 106;" in text
    assert f"for twice the multiply-adds) {first}, {second} and {third}." in text
    assert json.loads((folder / "dilated_net_36_epochs_0_test.json").read_text())["arguments"]["batch_size"] == 128
    takeaways = [
        (ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8")
        for notebook in ("04_dilated_net", "05_dilated_separable_net")
    ]
    assert f"has {short} after as many epochs of Muon" in takeaways[0]
    assert f"and {long} after 116 (three seeds each; notebook 08)" in takeaways[0]
    assert f"has {other} after 106 epochs (three seeds; notebook 08)" in takeaways[1]


def test_the_trainings_on_a_gpu_are_as_fast_together_as_their_records_say():
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "experiments" / "records").glob("*_[0-9]_test.json")
    ]
    together = [record["history"]["images_per_second"] for record in records if "H100" in record.get("device", "")]
    assert len(together) == 15
    total = round(sum(map(statistics.median, together)), -3)
    assert f"learned from {total:,.0f} images a second in all" in " ".join(README.split())


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_of_make_are_those_of_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert named <= targets
    assert {"demo", "test", "train", "lab", "stamp"} <= named


def median_of(record, *path):
    values = json.loads((ROOT / "benchmarks" / "records" / record).read_text(encoding="utf-8"))
    for name in path:
        values = values[name]
    return statistics.median(values)


ROWS_OF_SPEEDS = pytest.mark.parametrize(
    ("row", "name"),
    {
        "usual loop, float32": "usual loop, float32",
        "`fit`, ordinary loader, float32": "fit, ordinary loader, float32",
        "`fit`, ordinary loader, bfloat16": "fit, ordinary loader, bfloat16",
        "`fit`, `fast=True`, float32": "fit, fast loader, float32",
        "`fit`, `fast=True`, bfloat16": "fit, fast loader, bfloat16",
        "the last, channels first in memory": "the last, channels first, bfloat16",
    }.items(),
)


@ROWS_OF_SPEEDS
def test_the_speeds_are_those_of_the_record(row, name):
    cells = []
    measured = json.loads((ROOT / "benchmarks" / "records" / "throughput_cpu.json").read_text(encoding="utf-8"))
    for network in measured["networks"]:
        path = "throughput_cpu.json", "networks", network, "images_per_second"
        usual, speed = median_of(*path, "usual loop, float32"), median_of(*path, name)
        cells.append(f"{speed:,.0f}" + (f" ({speed / usual:.2f})" if name != "usual loop, float32" else ""))
    assert f"| {row} | {' | '.join(cells)} |" in README


def test_the_speeds_of_two_mirror_nets_are_those_of_their_record():
    path = "throughput_mirror_cpu.json", "networks"
    quoted = []
    for network, precision in (("mirror_net", "bfloat16"), ("small_gated_mirror_net", "float32")):
        speeds = *path, network, "images_per_second"
        quoted.append(median_of(*speeds, f"fit, fast loader, {precision}"))
        quoted.append(quoted[-1] / median_of(*speeds, "usual loop, float32"))
    text = " ".join(README.split())
    words = (
        "`mirror_net` {:.0f} images a second ({:.2f} times the usual loop), and `small_gated_mirror_net` {:.0f} ({:.2f}"
    )
    assert words.format(*quoted) in text
    assert round(50_000 / quoted[2] / 60) == 7
    assert "on two CPU cores an epoch takes seven minutes" in text
    measured = json.loads((ROOT / "benchmarks" / "records" / path[0]).read_text(encoding="utf-8"))
    assert measured["images"] == "CIFAR-10, JPEG q75"
    assert f"in rounds of {measured['images_a_round']:,} images" in text
    assert measured["machine"]["cores"] == 2


@ROWS_OF_SPEEDS
def test_the_speeds_on_a_gpu_are_those_that_were_printed(row, name):
    printed = (ROOT / "benchmarks" / "records" / "throughput_cuda.md").read_text(encoding="utf-8")
    found = re.findall(rf"^\| {name} \| ([\d,]+) \(.*?\) \| ([\d.]+) \|", printed, re.MULTILINE)
    assert len(found) == 3
    shares = re.findall(r"^\| fit, fast loader, float32 .* (\d+)% \|$", printed, re.MULTILINE)
    assert round(100 / max(map(int, shares))) == 9
    assert "some nine times as fast, or more" in README
    cells = [speed + (f" ({ratio})" if name != "usual loop, float32" else "") for speed, ratio in found]
    assert f"| {row} | {' | '.join(cells)} |" in README


def test_two_trainings_on_a_gpu_were_equal_as_the_record_says():
    record = json.loads((ROOT / "benchmarks" / "records" / "repeatability_cuda.json").read_text(encoding="utf-8"))
    assert record["machine"]["gpu"] == "NVIDIA H200"
    assert all(run["equal"] for run in record["runs"].values())
    ratios = []
    measured = dict.fromkeys(run.partition(",")[0] for run in record["runs"])
    assert set(NETWORKS) - set(measured) == {"small_gated_mirror_net"}
    assert "`small_gated_mirror_net` has not been measured yet" in README
    for network in measured:
        asked, plain = (
            statistics.median(record["runs"][f"{network}, {way}"]["images_per_second"])
            for way in ("deterministic", "as it comes")
        )
        ratios.append(asked / plain)
    text = " ".join(README.split())
    assert record["epochs"] == 2
    assert f"two epochs of {record['images']:,} images each" in text
    slower = [1 - ratio for ratio in ratios if ratio < 0.9]
    assert len(slower) == 4
    apart = max(max(run["images_per_second"]) / min(run["images_per_second"]) for run in record["runs"].values())
    assert round(apart - 1, 1) == 0.5
    assert "those of one network differ by up to half" in text
    assert f"Four of them were slower for it, by {min(slower):.0%} to {max(slower):.0%}" in text


def test_the_times_to_an_accuracy_are_those_of_the_records():
    seconds = []
    for loop in ("fit", "usual"):
        path = ROOT / "benchmarks" / "records" / f"time_to_accuracy_{loop}_cpu.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["machine"]["cores"] == 1
        seconds.append(min(passed for passed, acc in record["curve"] if acc >= 0.85))
        assert max(acc for _, acc in record["curve"]) < 0.887
    quoted = "`fit` {:,.0f} s, the usual loop {:,.0f} s, {:.2f} times as long".format(*seconds, seconds[1] / seconds[0])
    assert quoted in " ".join(README.split())


def test_the_accuracies_over_seeds_are_those_of_the_record():
    record = json.loads((ROOT / "benchmarks" / "records" / "seeds_cpu.json").read_text(encoding="utf-8"))
    usual = record["test_acc"]["ordinary loader, float32"]
    settings = record["settings"]
    assert f"{len(usual)} seeds, {settings['count']:,} images and {settings['epochs']} epochs each" in README
    for name, accuracies in record["test_acc"].items():
        difference = 100 * (statistics.mean(accuracies) - statistics.mean(usual))
        error = 100 * math.sqrt((statistics.variance(accuracies) + statistics.variance(usual)) / len(usual))
        compared = "" if accuracies is usual else f"{difference:+.1f} ± {error:.1f} "
        assert f"| {name} | {statistics.mean(accuracies):.1%} | {compared}|" in README


def test_the_other_measured_figures_are_those_of_the_records():
    text = " ".join(README.split())
    costs = [
        median_of("input_side_cpu.json", "microseconds_an_image", policy, f"the loader, one process, {kind}")
        for kind in ("one", "batch")
        for policy in ("crop policy", "course policy")
    ]
    assert "{:.0f} µs of one core by the crop policy and {:.0f} µs".format(*costs) in text
    assert "the fast one {:.0f} and {:.0f} µs".format(*costs[2:]) in text
    names = ("torch, torchvision, albumentations", "the same and eva_utils")
    before, after = (median_of("startup.json", "seconds", name) for name in names)
    assert f"Importing the library takes {after - before:.2f} s more" in text
    record = json.loads((ROOT / "benchmarks" / "records" / "throughput_cpu.json").read_text(encoding="utf-8"))
    for kind, quoted in (
        ("multiply-adds", "would be {:.1f}, {:.1f}, {:.1f} and {:.1f} times"),
        ("bytes", "write would be {:.1f}, {:.1f}, {:.1f} and {:.1f} times"),
    ):
        shares = [
            values["floor_images_per_second"]["bfloat16"][kind]
            / statistics.median(values["images_per_second"]["fit, fast loader, bfloat16"])
            for values in record["networks"].values()
        ]
        assert quoted.format(*shares) in text
