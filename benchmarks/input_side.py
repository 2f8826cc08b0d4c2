"""Microseconds an image of the input side, stage by stage: albumentations image by image against whole batches.

    python benchmarks/input_side.py --out benchmarks/records/input_side_cpu.json

One thread on a CPU, so that the stages compare; the batches are those of the device that training would take.
"""

import statistics
import time
from collections.abc import Callable

import albumentations as A
import common
import numpy as np
import torch

import eva_utils as eva
from eva_utils.batched import BatchedPolicy

BATCH = 256
POLICIES = {
    "crop policy": lambda: eva.crop_policy(dropout=0.5),
    "course policy": lambda: eva.course_policy(grey=0.1),
}


def main() -> None:
    """Measure both policies and print a table of each."""
    args = common.parser(__doc__, in_rounds=True).parse_args()
    device, (train_set, _) = eva.best_device(), eva.load_images(args.images)
    torch.set_num_threads(1)
    measured = {}
    for title, make in POLICIES.items():
        values = common.in_turns(stages(make(), train_set.subset(range(BATCH)), device), args.rounds)
        names = list(dict.fromkeys(name for name, _ in values))
        rows = []
        for name in names:
            one, batch = values[name, "one"], values[name, "batch"]
            ratio = statistics.median(one) / statistics.median(batch)
            rows.append((name, common.spread(one), common.spread(batch), f"{ratio:.1f}"))
        header = ("stage", "image by image, µs", f"batches of {BATCH} on {device.type}, µs", "ratio")
        common.print_table(f"{title}, median (lowest to highest)", header, rows)
        measured[title] = {f"{name}, {kind}": timings for (name, kind), timings in values.items()}
    common.save_record(args.out, {"images": train_set.name, "microseconds_an_image": measured})


def stages(policy: A.Compose, image_set: eva.ImageSet, device: torch.device) -> dict[tuple[str, str], Callable]:
    """Return what runs one stage on a batch and gives its microseconds an image, by (stage, kind)."""
    made = {}
    size = image_set.images.shape[1:3]
    images, batch = list(image_set.images), torch.from_numpy(image_set.images).movedim(3, 1).contiguous().to(device)
    whole = BatchedPolicy(policy, size)
    for transform in policy.transforms:
        name = type(transform).__name__
        alone = BatchedPolicy(A.Compose([transform]), size)
        made[name, "one"] = _timed(lambda t=transform, x=images: [t(image=image) for image in x], device)
        made[name, "batch"] = _timed(lambda p=alone, x=batch: _augment(p, x.clone()), device)
        images = [transform(image=image)["image"] for image in images]
        batch, size = _augment(alone, batch.clone()), alone.size
    raw = torch.from_numpy(image_set.images).movedim(3, 1).contiguous().to(device)
    made["the whole policy", "one"] = _timed(lambda: [policy(image=image) for image in image_set.images], device)
    made["the whole policy", "batch"] = _timed(lambda: _augment(whole, raw.clone()), device)
    loading = {"batch_size": BATCH, "shuffle": True}
    ordinary = eva.make_loader(image_set, policy, workers=0, **loading)
    fast = eva.make_loader(image_set, policy, fast=True, device=device, **loading)
    made["the loader, one process", "one"] = _timed(lambda: list(ordinary), device)
    made["the loader, one process", "batch"] = _timed(lambda: list(fast), device)
    return made


def _augment(policy: BatchedPolicy, images: torch.Tensor) -> torch.Tensor:
    return policy(images, policy.draw(BATCH, seed=0, epoch=0), np.arange(BATCH))


def _timed(run: Callable[[], object], device: torch.device) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / BATCH * 1e6

    return measure


if __name__ == "__main__":
    main()
