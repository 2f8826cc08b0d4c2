"""The training loop, from top to bottom."""

import contextlib
import functools
import math
import re
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from eva_utils.distributed import is_first, joined, sum_over_processes, weight_of
from eva_utils.history import HEADER, Evaluation, History
from eva_utils.loaders import DeviceLoader, EpochSampler
from eva_utils.predictions import check_batch, check_logits, predict
from eva_utils.progress import Progress
from eva_utils.resume import EpochSoFar, Saver, interruptions, random_state, set_random_state
from eva_utils.runtime import autocast, best_device, best_precision, deterministic_algorithms, prepare_determinism

Loader = DataLoader | DeviceLoader


def fit(
    model: nn.Module,
    train_loader: Loader,
    test_loader: Loader,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    device: torch.device | str | None = None,
    precision: str | None = None,
    average: float = 0.0,
    checkpoint: str | Path | None = None,
    save_minutes: float = 5.0,
    restart: bool = False,
    deterministic: bool = False,
    verbose: bool = True,
) -> History:
    """Train the model, test it after each epoch, and return the :class:`History`.

    The loaders give (images float32 (B, 3, H, W), labels int64 (B,)). ``optimizer`` is SGD with lr 0.04 and
    momentum 0.9 by default; ``scheduler`` is stepped after every batch; ``loss_fn(logits, labels)`` returns
    a mean over the batch. ``device`` and ``precision`` ("float32", "bfloat16", "float16") default to the best
    at hand, and the first line printed says which. The model stays on the device, in channels-last layout.
    With ``average``, 0.999 say, an exponential moving average of the weights keeps that share of itself at each
    step; it is what is tested, and what the model holds in the end.

    With ``checkpoint`` everything is saved there after each epoch and every ``save_minutes``, and the same call goes on
    from it, to the same bits: a finished run returns its history at once. Another network, recipe, seed or set of
    images is refused unless ``restart``. An interruption (Ctrl-C, the stop button) ends the run after the batch, saves,
    and returns the history so far. ``deterministic=True`` asks the same bits of a GPU, as the CPU gives them anyway;
    it may be slower. Raises ValueError for arguments that do not fit, OSError where the
    checkpoint cannot be written, and FloatingPointError as soon as a loss is not finite.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: expected 1 or more")
    if not 0 <= average < 1:
        raise ValueError(f"average={average}: expected a share from 0 (no average) to below 1, such as 0.999")
    device = torch.device(device) if device else best_device()
    if deterministic:
        prepare_determinism(device)
    precision = precision or best_precision(device)
    model.to(device, memory_format=torch.channels_last)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.04, momentum=0.9)
    # a start at torch's 2**16 would overflow: a step would be skipped, and the scheduler would warn of it
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=precision == "float16")
    parts = {"model": model, "optimizer": optimizer, "scaler": scaler}
    if scheduler is not None:
        parts["scheduler"] = scheduler
    averaged = None
    if average:
        parts["averaged"] = averaged = AveragedModel(model, None, None, get_ema_multi_avg_fn(average), use_buffers=True)
    run = _describe(model, train_loader, test_loader, optimizer, scheduler, loss_fn)
    run["optimizer"] += f", weights averaged with {average}" if average else ""
    run["precision"] = precision + ", deterministic" * deterministic
    saver = Saver(Path(checkpoint) if checkpoint else None, run, parts, 60 * save_minutes, _generators(train_loader))
    saver.check()
    so_far = EpochSoFar.new(device)
    history = History(run=run) if restart else saver.load(epochs, so_far)
    verbose = verbose and is_first()
    progress, say = Progress(enabled=verbose), print if verbose else lambda *_, **__: None
    say(f"Training on {device.type} in {precision}, {len(train_loader):,} batches an epoch")
    say(HEADER, *map(history.line, range(len(history))), sep="\n")
    repeatable = deterministic_algorithms() if deterministic else contextlib.nullcontext()
    with repeatable, interruptions() as interrupted, joined(model) as trained:
        step = functools.partial(_step, trained, averaged, optimizer, scheduler, loss_fn, scaler, precision)
        for epoch in range(len(history), epochs):
            batches = progress.track(
                _from(train_loader, epoch, so_far), f"epoch {epoch + 1}", total=len(train_loader) - so_far.steps
            )
            _train_epoch(model.train(), batches, step, so_far, history, saver, interrupted)
            if interrupted:
                say(f"stopped in epoch {epoch + 1} after batch {so_far.steps:,}" + saver.advice)
                break
            _test_epoch(averaged or model, test_loader, precision, so_far, history)
            so_far = EpochSoFar.new(device)
            saver.save(history, so_far)
            say(history.line(epoch))
            if interrupted and len(history) < epochs:
                say(f"stopped after epoch {epoch + 1}" + saver.advice)
                break
    if averaged is not None:
        model.load_state_dict(averaged.module.state_dict())
    return history


def evaluate(model: nn.Module, loader: Loader, *, precision: str = "float32") -> Evaluation:
    """Return the model's cross entropy and accuracy over all images of ``loader``.

    Each image counts the same, whatever batch it is in; the model is left in the mode it was in. With loaders
    that give each process its share, all of them get the values over all images.
    """
    predictions = predict(model, loader, precision=precision)
    if getattr(loader, "shard", (0, 1))[1] == 1:
        return Evaluation(predictions.loss, predictions.accuracy)
    right = int((predictions.preds == predictions.labels).sum())
    mine = [predictions.loss * len(predictions), right, len(predictions)]
    sums = torch.tensor(mine, dtype=torch.float64, device=next(model.parameters()).device)
    sum_over_processes(sums)
    loss, right, count = sums.tolist()
    return Evaluation(loss / count, right / count)


def _train_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, float]],
    so_far: EpochSoFar,
    history: History,
    saver: Saver,
    interrupted: list[bool],
) -> None:
    """Take one step a batch, counting into ``so_far`` and saving in between; stop where the user interrupts."""
    start = time.perf_counter() - so_far.seconds
    every = 1 if so_far.loss.device.type == "cpu" else 50  # elsewhere, reading a number waits for the device
    for images, labels in batches:
        so_far.add(*step(images, labels), len(labels))
        so_far.seconds = time.perf_counter() - start
        pause = saver.due or interrupted
        if pause or so_far.steps % every == 0:
            so_far.check_finite(len(history) + 1)
        if pause:
            so_far.check_weights(model, len(history) + 1)
            saver.save(history, so_far)
        if interrupted:
            return
    so_far.check_finite(len(history) + 1)
    so_far.check_weights(model, len(history) + 1)


def _step(
    model: nn.Module,
    averaged: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    scaler: torch.amp.GradScaler,
    precision: str,
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor, float]:
    """Train on one batch; return its loss, how many were predicted right, and the lr of the step."""
    check_batch(images, labels)
    device = next(model.parameters()).device
    weight = weight_of(len(labels), device)
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    labels = labels.to(device, non_blocking=True)
    with autocast(device, precision):
        logits = model(images)
        check_logits(logits, labels)
        loss = loss_fn(logits.float(), labels) if len(labels) else logits.float().sum()
    optimizer.zero_grad()
    scaler.scale(loss * weight).backward()
    lr = float(optimizer.param_groups[0]["lr"])
    scaler.step(optimizer)
    scaler.update()
    if averaged is not None:
        averaged.update_parameters(getattr(model, "module", model))
    if scheduler is not None:
        scheduler.step()
    return loss.detach(), (logits.argmax(dim=1) == labels).sum(), lr


def _test_epoch(model: nn.Module, loader: Loader, precision: str, so_far: EpochSoFar, history: History) -> None:
    """Test the model and write the epoch down."""
    start = time.perf_counter()
    so_far.gather()
    test = evaluate(model, loader, precision=precision)
    if not math.isfinite(test.loss):
        raise FloatingPointError(
            f"the test loss is {test.loss} after epoch {len(history) + 1}, with finite weights, in {precision}: "
            "look for test images that are not finite, or name another precision"
        )
    seconds = so_far.seconds + time.perf_counter() - start
    speed = so_far.images / so_far.seconds
    history.append(so_far.result(), test, lr=so_far.lr, seconds=seconds, images_per_second=speed)


def _generators(loader: Loader) -> list[torch.Generator]:
    """Return the generators that a loader keeps for the order of its samples; those of this library keep none."""
    if isinstance(loader.sampler, EpochSampler):
        return []
    return [g for g in (loader.generator, getattr(loader.sampler, "generator", None)) if g is not None]


def _from(loader: Loader, epoch: int, so_far: EpochSoFar) -> Iterable[tuple[Tensor, Tensor]]:
    """Return the batches of an epoch but those already done; loaders of this library do not make these at all.

    Others draw the order of an epoch at its start, from a generator: this is brought back to where it was then.
    """
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.set_epoch(epoch, start=so_far.steps * loader.batch_size)
        return loader
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    generators = _generators(loader)
    here = random_state(generators)
    if not so_far.steps:
        so_far.start = here
        return loader
    set_random_state(so_far.start, generators)
    batches = iter(loader)
    for _ in range(so_far.steps):
        next(batches)
    set_random_state(here, generators)
    return batches


def _describe(
    model: nn.Module,
    train_loader: Loader,
    test_loader: Loader,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, str]:
    """Return in words what makes a run another run: a checkpoint goes on with the same alone."""
    layers = zlib.crc32(str(model).encode())  # which also tells networks of one class and size apart
    policy = _words(getattr(train_loader.dataset, "transform", ""))
    return {
        "network": f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters, {layers:08x}",
        "images": _images(train_loader),
        "test images": _images(test_loader),
        "policy": policy + ", in batches" * isinstance(train_loader, DeviceLoader),
        "batch size": str(train_loader.batch_size),
        "seed": str(getattr(train_loader.sampler, "seed", None)),
        "loss": getattr(loss_fn, "__name__", None) or _words(loss_fn),
        "optimizer": f"{type(optimizer).__name__} {[_constants(group) for group in optimizer.param_groups]}",
        "schedule": f"{type(scheduler).__name__}, {getattr(scheduler, 'total_steps', None)} steps",
    }


def _images(loader: Loader) -> str:
    """Return the loader's images in words, with a checksum where they are an ImageSet."""
    image_set = getattr(loader.dataset, "image_set", None)
    return f"{len(loader.dataset):,} images" if image_set is None else f"{image_set!r}, {image_set.checksum}"


def _words(thing: object) -> str:
    """Return the text of an object without addresses, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(thing))


def _constants(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a parameter group but those that its schedule changes."""
    moving = ["params"]
    if "initial_lr" in group:  # every schedule of torch notes it
        moving += ["lr"]
    if "max_momentum" in group:  # OneCycleLR and CyclicLR
        moving += ["momentum", "betas"]
    return {name: value for name, value in group.items() if name not in moving}
