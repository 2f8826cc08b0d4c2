"""The learning-rate range test: which learning rates a network learns at, seen in a hundred batches."""

import contextlib
import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva_utils.checks import instance, real_number, whole_number
from eva_utils.distributed import processes
from eva_utils.history import LrRange
from eva_utils.loaders import EpochSampler, loader_generators
from eva_utils.predictions import count_classes, images_and_labels
from eva_utils.randomness import random_state, set_random_state
from eva_utils.runtime import best_device, training_precision
from eva_utils.step import Loader, check_parts, loss_scaler, train_step

SMOOTHING = 0.9  # of the loss: what the average keeps of itself each step
DIVERGED = 4  # times the lowest loss


def find_lr(
    model: nn.Module,
    train_loader: Loader,
    optimizer: torch.optim.Optimizer,
    *,
    start_lr: float = 1e-4,
    end_lr: float = 10.0,
    steps: int = 100,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    batch_transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    device: torch.device | str | None = None,
    precision: str | None = None,
) -> LrRange:
    """Train a copy of the model for ``steps`` batches while the learning rate grows from ``start_lr`` to ``end_lr``.

    It grows by the same factor at each step, and ends early once the loss has diverged: at 4 times its lowest value,
    from the 11th step on, or where it is no longer finite (Smith 2017, "Cyclical learning rates"). Groups of the
    optimizer keep the ratio of their rates to the first group's. Model, optimizer, the loader's epoch and all random
    generators stay as they are (but one that a sampler of your own keeps under another name than ``generator``). The
    other arguments are those of :func:`fit`.

    Returns the first group's rates and the losses, smoothed over about the last ten steps. Raises ValueError for a
    range that does not grow, for parts that do not fit, for a first group with lr 0, for a loss that is not finite at
    the first or second step already, and where several processes train together.
    """
    start_lr, end_lr = real_number("start_lr", start_lr, least=0), real_number("end_lr", end_lr, least=0)
    steps = whole_number("steps", steps, least=2)
    if not 0 < start_lr < end_lr:
        raise ValueError(f"start_lr={start_lr:g}, end_lr={end_lr:g}: expected 0 < start_lr < end_lr")
    if processes() > 1:
        raise ValueError("find_lr in several processes: each would test a share of the batches; call it in one")
    instance("optimizer", optimizer, torch.optim.Optimizer, "one of torch.optim or Muon")
    check_parts(model, {"train_loader": train_loader}, optimizer, batch_transform, loss_fn)
    device = torch.device(device) if device else best_device()
    precision = training_precision(model, device, precision)
    model, optimizer = copy.deepcopy((model, optimizer))  # together, so that the one holds the other's parameters
    model.to(device, memory_format=torch.channels_last).train()
    ratios = _ratios(optimizer)
    rules = {"optimizer": optimizer, "scaler": loss_scaler(device, precision), "precision": precision}
    lessons = {"batch_transform": batch_transform, "loss_fn": loss_fn, "classes": count_classes(train_loader)}
    step = functools.partial(train_step, model, **rules, **lessons)
    lrs, losses, average = [], [], 0.0
    with _untouched(train_loader):
        for lr, batch in zip(np.geomspace(start_lr, end_lr, steps).tolist(), _endless(train_loader), strict=False):
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                group["lr"] = lr * ratio
            loss, *_ = step(*images_and_labels(batch))
            average = SMOOTHING * average + (1 - SMOOTHING) * loss.item()
            smoothed = average / (1 - SMOOTHING ** (len(losses) + 1))  # the average began at 0
            if not math.isfinite(smoothed) or (len(losses) >= 10 and smoothed > DIVERGED * min(losses)):
                break
            lrs.append(lr)
            losses.append(smoothed)
    at = f"at learning rate {start_lr:g}"
    if not losses:
        raise ValueError(f"the loss is not finite {at} already: look at the weights and images")
    if len(losses) == 1:
        raise ValueError(f"the loss is not finite after one step {at}: choose a smaller start_lr=")
    return LrRange(tuple(lrs), tuple(losses))


def _ratios(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return each group's lr, or that of its schedule's start, as a multiple of the first group's."""
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if rates[0] == 0:
        raise ValueError("the first group of the optimizer has lr 0: make the optimizer with one above 0")
    return [rate / rates[0] for rate in rates]


def _endless(loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    return itertools.chain.from_iterable(itertools.repeat(loader))


@contextlib.contextmanager
def _untouched(loader: Loader) -> Iterator[None]:
    """Bring the random generators and the loader's epoch back to where they were."""
    generators = loader_generators(loader)
    before = random_state(generators)
    counts = isinstance(loader.sampler, EpochSampler)  # its epochs, by itself
    own = vars(loader.sampler) if counts else {}
    epoch = dict(own)
    try:
        yield
    finally:
        set_random_state(before, generators)
        own.update(epoch)
