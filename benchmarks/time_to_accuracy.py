"""Seconds from a cold start to a test accuracy: the usual loop against fit with the fast loader.

    python benchmarks/time_to_accuracy.py --recipe short --loop fit
    python benchmarks/time_to_accuracy.py --recipe short --loop usual

Each run is a process of its own, which counts from before its imports to the end of the first epoch whose test
accuracy reaches the target. Both loops train the same network by the same recipe: that of its notebook, which reaches
the highest accuracy, or a short one that is made to reach 85% soon. The usual loop keeps no average of weights, on
which a notebook's recipe may rest. With --record the times are read from the record of a finished run instead, and
count from the start of its first epoch.
"""

import time

START = time.perf_counter()

import itertools
import json
from pathlib import Path
from typing import Any

import common
import torch

import eva_utils as eva
from eva_utils.recipes import RECIPES, muon, prepare

TARGETS = (0.85, 0.887)


SHORT = {
    "identity": False,
    "epochs": 20,
    "batch_size": 256,
    "lr": 0.05,
    "warmup": 0.1,
    "final": 0.0,
    "ema_decay": 0.0,
    "optimizer": muon,
    "policy": lambda: eva.crop_policy(padding=4, dropout=0.1),
}


def main() -> None:
    """Train for all epochs of the recipe, and print when each target was reached."""
    parser = common.parser(__doc__)
    parser.add_argument("--network", choices=sorted(eva.NETWORKS), default="dilated_separable_net")
    parser.add_argument("--loop", choices=("fit", "usual"), default="fit")
    parser.add_argument("--recipe", choices=("notebook", "short"), default="notebook")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--record", type=Path, help="a record of a finished run to read the times from")
    args = parser.parse_args()
    if args.record:
        history = json.loads(args.record.read_text(encoding="utf-8"))["history"]
        curve = list(zip(itertools.accumulate(history["seconds"]), history["test_acc"], strict=True))
        name = args.record.stem
    else:
        recipe = SHORT if args.recipe == "short" else RECIPES[args.network]
        curve = train(args.network, recipe | ({"epochs": args.epochs} if args.epochs else {}), args.loop, args.images)
        name = f"{args.network}, {args.recipe} recipe, {args.loop}"
    rows = []
    for target in TARGETS:
        reached = [(seconds, epoch) for epoch, (seconds, acc) in enumerate(curve, start=1) if acc >= target]
        rows.append(
            (
                f"{target:.1%}",
                f"{reached[0][0]:,.1f}" if reached else "not reached",
                str(reached[0][1]) if reached else "",
            )
        )
    common.print_table(
        f"{name}: the first time that the test accuracy is reached", ("accuracy", "seconds", "epoch"), rows
    )
    common.save_record(args.out, {"run": name, "curve": curve})


def train(network: str, recipe: dict[str, Any], loop: str, images: str | None) -> list[tuple[float, float]]:
    """Return (seconds since the start, test accuracy) after each epoch."""
    device = eva.best_device()
    sets = eva.load_images(images)
    prepared = prepare(network, *sets, recipe=recipe, fast=loop == "fit")
    if loop == "fit":
        history = eva.fit(**prepared)
        begun = time.perf_counter() - START - sum(history.seconds)  # all that is no epoch
        return list(zip((begun + s for s in itertools.accumulate(history.seconds)), history.test_acc, strict=True))
    model, curve = prepared["model"].to(device), []
    loader = common.usual_loader(sets[0], recipe["policy"](), batch_size=recipe["batch_size"])
    test_loader = common.usual_loader(sets[1], eva.eval_policy(), batch_size=500, shuffle=False)
    for epoch in range(recipe["epochs"]):
        common.usual_epoch(model, loader, prepared["optimizer"], prepared["scheduler"], device)
        tested = accuracy(model, test_loader, device)
        curve.append((time.perf_counter() - START, tested))
        print(f"epoch {epoch + 1}: {curve[-1][1]:.2%} after {curve[-1][0]:,.1f} s")
    return curve


@torch.no_grad()
def accuracy(model: torch.nn.Module, loader: torch.utils.data.DataLoader, device: torch.device) -> float:
    """Test as the usual loop does."""
    model.eval()
    correct, seen = 0, 0
    for images, labels in loader:
        correct += model(images.to(device)).argmax(dim=1).cpu().eq(labels).sum().item()
        seen += len(labels)
    return correct / seen


if __name__ == "__main__":
    main()
