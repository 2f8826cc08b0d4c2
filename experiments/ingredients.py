"""What each ingredient adds: a base recipe and its variants, and other networks trained by the same recipe.

    python experiments/ingredients.py --seeds 0 1 2        # trains what has no record yet, then prints the tables
    python experiments/ingredients.py --only "no gates"    # one of them, seed 0
    python experiments/ingredients.py --seeds 0 1 2 --at-once 14 --compile reduce-overhead   # on a GPU with 16 cores

Each run is one of probe.py, 12 epochs tested on 5,000 held-back training images, and leaves its record in
records/ingredients. What takes long to pay, such as a stronger policy, is underrated by so few epochs.
"""

import argparse
import json
import math
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
RECORDS = HERE / "records" / "ingredients"
BASE = (
    "--network small_residual_net --epochs 12 --batch-size 256 --optimizer muon --lr 0.05 --momentum 0.9 "
    "--weight-decay 0.01 --average 0.995 --final 0.1 --padding 0 --affine 0.5 --dropout 0.3 --grey 0.05"
)
TAUGHT = "--teacher experiments/records/small_teacher_16.json"  # from the root
VARIANTS = {
    "the base": "",
    "SGD": "--optimizer sgd --lr 0.2 --weight-decay 3e-4",
    "AdamW": "--optimizer adamw --lr 3e-3 --weight-decay 0.05",
    "no warm-up": "--warmup 0",
    "a rate that falls to 0": "--final 0",
    "a constant rate": "--warmup 0 --final 1",
    "no average of weights": "--average 0",
    "norms and biases decay too": "--decay-all",
    "label smoothing 0.1": "--label-smoothing 0.1",
    "mixup 0.2": "--mixup 0.2",
    "no hole": "--dropout 0",
    "a hole in each image": "--dropout 1",
    "crops in place of affine maps": "--padding 4 --affine 0",
    "crops and affine maps": "--padding 4",
    "affine maps of all images": "--affine 1",
    "affine maps half as far": "--strength 0.5",
    "affine maps twice as far": "--strength 2",
    "colours changed by a fifth": "--jitter 0.2",
    "started at the identity": "--identity",
    "no gates": "--without gates",
    "no shortcuts": "--without shortcuts",
    "no dilation": "--without dilation",
    "depthwise kernels of 5x5": "--depthwise 5",
    "taught by `small_teacher`": TAUGHT,
}
PEERS = {  # the same recipe for all
    "the base": "",
    "`residual_net`": "--network residual_net",
    "`small_mirror_net`": "--network small_mirror_net",
    "`narrow_mirror_net`": "--network narrow_mirror_net",
    "`wide_residual_net`": "--network wide_residual_net",
    "`mirror_net`": "--network mirror_net",
    "`small_gated_mirror_net`": "--network small_gated_mirror_net",
    "notebook 04's network": "--network dilated_net --identity",
    "notebook 05's network": "--network dilated_separable_net --identity",
    "ResNet-20": "--network resnet20",
    "DenseNet-BC-40": "--network densenet40",
    "`many_scales`": "--network many_scales",
}
RUNS = {name: f"{BASE} {options}" for name, options in (VARIANTS | PEERS).items()}


def main() -> None:
    """Train what has no record yet, one after another, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--only", choices=RUNS, nargs="+", default=list(RUNS), help="default: all")
    parser.add_argument("--compile", nargs="?", const="default", metavar="MODE", help="have torch compile the networks")
    parser.add_argument("--at-once", type=int, default=1, help="runs beside one another; default: 1")
    args = parser.parse_args()
    missing = [(name, seed) for seed in args.seeds for name in args.only if not path(name, seed).exists()]
    train_all(missing, *(["--compile", args.compile] if args.compile else []), at_once=args.at_once)
    print(table(VARIANTS), table(PEERS), sep="\n\n")
    print(f"\none run of a variant: deviation {100 * deviation(VARIANTS):.2f} by all seeds of all variants")


def path(name: str, seed: int | str) -> Path:
    """Return where the record of a variant and seed is or will be."""
    return RECORDS / f"{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}_{seed}.json"


def train_all(runs: list[tuple[str, int]], *more: str, at_once: int = 1) -> None:
    """Run the probes of these names and seeds, with more arguments where given; what was cut goes on."""
    interrupted: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))  # the probes save before they end
    try:
        with ThreadPoolExecutor(at_once) as pool:
            for done in [pool.submit(train, name, seed, *more, unless=interrupted) for name, seed in runs]:
                done.result()
    finally:
        signal.signal(signal.SIGINT, before)


def train(name: str, seed: int, *more: str, unless: list[bool]) -> None:
    """Run one probe, or none once ``unless`` holds an interruption or a failure, which end the program."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    options = [*RUNS[name].split(), "--seed", str(seed), "--out", str(path(name, seed)), *more]
    try:
        if not unless:
            subprocess.run([sys.executable, str(HERE / "probe.py"), *options], check=True, cwd=HERE.parent)
    except BaseException:
        unless.append(True)  # before this worker takes the next run
        raise
    if not path(name, seed).exists():
        raise SystemExit(f"{name}, seed {seed}: interrupted; the same command goes on")
    for suffix in (".pt", ".pt.previous", ".weights"):
        path(name, seed).with_suffix(suffix).unlink(missing_ok=True)


def table(names: Iterable[str]) -> str:
    """Return the table of the records that are there: mean, deviation, and difference from the first in points."""
    rows = ["| | accuracy | deviation | against the first | seeds |", "| --- | --- | --- | --- | --- |"]
    first = None
    for name in names:
        found = accuracies(name)
        if not found:
            continue
        mean = statistics.mean(found)
        spread = f"{100 * statistics.stdev(found):.2f}" if len(found) > 1 else ""
        difference = "" if first is None else f"{100 * (mean - first):+.2f}"
        first = mean if first is None else first
        rows.append(f"| {name} | {mean:.2%} | {spread} | {difference} | {len(found)} |")
    return "\n".join(rows)


def deviation(names: Iterable[str]) -> float:
    """Return the pooled deviation of one run, 0 to 1: as if seeds did the same to each of these variants.

    nan where none has two seeds.
    """
    found = [seeds for seeds in map(accuracies, names) if len(seeds) > 1]
    freedom = sum(len(seeds) - 1 for seeds in found)
    return math.sqrt(sum((len(s) - 1) * statistics.variance(s) for s in found) / freedom) if found else math.nan


def accuracies(name: str) -> list[float]:
    """Return the accuracies of the runs of that name that have a record, in the order of their seeds."""
    numbers = sorted(int(record.stem.rsplit("_", 1)[1]) for record in RECORDS.glob(path(name, "[0-9]*").name))
    return [json.loads(path(name, seed).read_text(encoding="utf-8"))["test_acc"] for seed in numbers]


if __name__ == "__main__":
    main()
