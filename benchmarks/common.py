"""What the benchmarks share: the usual training loop, measuring in turns, tables and records."""

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import eva_utils as eva
from eva_utils.checkpoint import save_json
from eva_utils.runtime import usable_cores

WORKERS = 2  # as Colab's machines have cores


class UsualImages(Dataset):
    """The dataset that notebooks write around an albumentations pipeline."""

    def __init__(self, image_set: eva.ImageSet, transform: A.Compose) -> None:
        self.image_set, self.transform = image_set, transform

    def __len__(self) -> int:
        return len(self.image_set)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.transform(image=self.image_set.images[index])["image"]
        return image, int(self.image_set.labels[index])


def usual_loader(image_set: eva.ImageSet, transform: A.Compose, *, batch_size: int, shuffle: bool = True) -> DataLoader:
    """Return the DataLoader of a notebook whose author read the documentation: two workers that stay, pinned memory."""
    return DataLoader(
        UsualImages(image_set, transform),
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=WORKERS,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )


def usual_epoch(
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    device: torch.device,
) -> tuple[float, float]:
    """Train for an epoch in float32, reading loss and accuracy after each step, as progress bars show them."""
    model.train()
    loss_sum, correct, seen = 0.0, 0, 0
    for batch, target in loader:
        images, labels = batch.to(device, non_blocking=True), target.to(device, non_blocking=True)
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        loss_sum += loss.item() * len(labels)
        correct += logits.argmax(dim=1).eq(labels).sum().item()
        seen += len(labels)
    return loss_sum / seen, correct / seen


def in_turns(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each contender once a round, in turns, after a first round that does not count; return what they gave."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            value = contender()
            if number:
                values[name].append(value)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return values


def spread(values: list[float]) -> str:
    """Return the median and, in brackets, the lowest and highest value: whole from 1,000 on, else to four digits."""
    found = (statistics.median(values), min(values), max(values))
    median, low, high = (f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in found)
    return f"{median} ({low} to {high})"


def print_table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n")
    for row in (header, ("---",) * len(header), *rows):
        print("| " + " | ".join(row) + " |")


def parser(description: str, *, in_rounds: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have, or all that measure in rounds."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if in_rounds:
        made.add_argument("--rounds", type=int, default=5, help="measured rounds; default: %(default)s")
    made.add_argument("--images", help="as in load_images; default: $EVA_DATA, else cifar10")
    made.add_argument("--out", type=Path, help="where to write the record, JSON")
    return made


def save_record(path: Path | None, values: dict[str, Any]) -> None:
    """Write what was measured, on what machine with which versions."""
    if path is None:
        return
    save_json(path, {"machine": machine(), **values})


def machine() -> dict[str, Any]:
    """Describe what the benchmark ran on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "gpu": gpu,
        "cores": usable_cores(),
        "bfloat16 in the processor": bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "albumentations": A.__version__,
        "numpy": np.__version__,
    }
