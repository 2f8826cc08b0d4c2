"""One step of a training, and what has to fit together for it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from eva_utils.averaging import MovingAverage
from eva_utils.checks import instance
from eva_utils.distributed import weight_of
from eva_utils.loaders import DeviceLoader
from eva_utils.predictions import check_batch, check_logits
from eva_utils.runtime import autocast, device_of

Loader = DataLoader | DeviceLoader


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return what keeps gradients from underflowing in float16; in other precisions it does nothing."""
    # a start at torch's 2**16 would overflow: a step would be skipped, and the scheduler would warn of it
    return torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=precision == "float16")


def train_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batch_transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    scaler: torch.amp.GradScaler,
    precision: str,
    classes: int | None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    averaged: MovingAverage | None = None,
) -> tuple[Tensor, Tensor, float]:
    """Train on one batch; return its loss, how many were predicted right, and the lr of the step."""
    check_batch(images, labels)
    device = device_of(model)
    weight = weight_of(len(labels), device)
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    targets = labels.to(device, non_blocking=True)
    if batch_transform is not None and len(labels):
        with autocast(device, precision):  # one of its own, whose cache of weights does not reach the model's
            images, targets = _images_and_targets(batch_transform(images, targets), labels)
    optimizer.zero_grad()
    with autocast(device, precision):
        logits = model(images)
        check_logits(logits, labels, classes)
        _check_probabilities(targets, logits)
        loss = loss_fn(logits.float(), targets) if len(labels) else logits.float().sum()
    if loss.ndim:
        raise ValueError(f"loss_fn gives a tensor {tuple(loss.shape)}: expected one number, the mean over the batch")
    scaler.scale(loss * weight).backward()
    lr = float(optimizer.param_groups[0]["lr"])
    scaler.step(optimizer)
    scaler.update()
    if averaged is not None:
        averaged.update(model.module if isinstance(model, DistributedDataParallel) else model)
    if scheduler is not None:
        scheduler.step()
    likeliest = targets if targets.ndim == 1 else targets.argmax(dim=1)
    return loss.detach(), (logits.argmax(dim=1) == likeliest).sum(), lr


def check_parts(
    model: nn.Module,
    loaders: dict[str, Loader],
    optimizer: torch.optim.Optimizer | None,
    batch_transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Raise ValueError where these do not belong together, so that nothing would be trained, or another thing."""
    instance("model", model, nn.Module, "a network, such as build_network gives")
    for name, loader in loaders.items():
        instance(name, loader, (DataLoader, DeviceLoader), "a loader, such as make_loader gives")
        try:
            batches = len(loader)
        except TypeError as error:  # of an IterableDataset
            raise ValueError(f"{name} has a dataset without a length: give its class a __len__") from error
        if not batches:
            raise ValueError(f"{name} gives no batches: give it at least one image, and a whole batch with drop_last")
    if optimizer is not None:
        instance("optimizer", optimizer, torch.optim.Optimizer, "one of torch.optim or Muon")
        own = {id(p) for p in model.parameters()}
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise ValueError("optimizer holds no parameter of this model: make it anew from model.parameters()")
    if batch_transform is not None and not callable(batch_transform):
        what = type(batch_transform).__name__
        raise ValueError(f"batch_transform is a {what}: expected a function of (images, labels), such as MixUp")
    if hasattr(batch_transform, "loss") and loss_fn is F.cross_entropy:
        what = type(batch_transform).__name__
        raise ValueError(f"batch_transform is a {what}, which has a loss of its own: hand in its .loss as loss_fn= too")


def check_schedule(
    scheduler: torch.optim.lr_scheduler.LRScheduler | None, optimizer: torch.optim.Optimizer | None, steps: int
) -> None:
    """Raise ValueError for a schedule of another optimizer or for fewer steps, or one that needs losses."""
    if scheduler is None:
        return
    instance("scheduler", scheduler, torch.optim.lr_scheduler.LRScheduler, "a schedule, such as one_cycle gives")
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ValueError("scheduler is a ReduceLROnPlateau, which waits for losses: expected one to step after a batch")
    if scheduler.optimizer is not optimizer:
        raise ValueError("scheduler belongs to another optimizer: hand in its own as optimizer=, or make it anew")
    if getattr(scheduler, "total_steps", steps) < steps:
        raise ValueError(f"scheduler has {scheduler.total_steps:,} steps, but the epochs have {steps:,}")


def check_steps_left(scheduler: torch.optim.lr_scheduler.LRScheduler | None, steps: int) -> None:
    """Raise ValueError for a schedule that was stepped before, so that fewer than ``steps`` are left of it."""
    total = getattr(scheduler, "total_steps", None)
    if total is not None and total - scheduler.last_epoch < steps:
        raise ValueError(
            f"scheduler has {total - scheduler.last_epoch:,} of its {total:,} steps left, and {steps:,} are to come: "
            "make network, optimizer and schedule anew (with checkpoint= the same call would go on)"
        )


def _images_and_targets(made: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a batch transform made of a batch, or raise ValueError unless it is as many images and targets."""
    count, parts = len(labels), made if isinstance(made, tuple | list) else (made,)
    if len(parts) == 2 and all(map(torch.is_tensor, parts)) and len(parts[0]) == count:
        targets = parts[1]
        of_classes = targets.dtype == torch.int64 and targets.shape == (count,)
        if of_classes or (targets.is_floating_point() and targets.ndim == 2 and len(targets) == count):
            return parts[0], targets
    what = [f"{part.dtype} {tuple(part.shape)}" if torch.is_tensor(part) else type(part).__name__ for part in parts]
    raise ValueError(
        f"batch_transform gives {' and '.join(what)} for a batch of {count}: expected {count} images, and labels "
        f"({count},) or probabilities ({count}, classes)"
    )


def _check_probabilities(targets: Tensor, logits: Tensor) -> None:
    """Raise ValueError for probabilities of another number of classes than the logits have."""
    if targets.ndim == 2 and targets.shape != logits.shape:
        raise ValueError(
            f"batch_transform gives probabilities of {targets.shape[1]} classes, but the network has {logits.shape[1]} "
            "outputs: MixUp's num_classes, or the teacher's outputs, must be as many"
        )
