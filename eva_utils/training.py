"""The training loop, from top to bottom; a single step of it is in ``step``."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva_utils.averaging import MovingAverage
from eva_utils.checkpoint import checkpoint_path
from eva_utils.checks import real_number, whole_number
from eva_utils.description import describe
from eva_utils.distributed import first_seed, is_first, joined, sum_over_processes
from eva_utils.epoch import EpochSoFar
from eva_utils.history import HEADER, Evaluation, History
from eva_utils.loaders import EpochSampler, loader_generators
from eva_utils.predictions import count_classes, images_and_labels, predict
from eva_utils.progress import Progress
from eva_utils.randomness import random_state, set_random_state
from eva_utils.resume import Saver, interruptions
from eva_utils.runtime import (
    best_device,
    deterministic_algorithms,
    device_of,
    prepare_determinism,
    training_precision,
)
from eva_utils.step import Loader, check_parts, check_schedule, check_steps_left, loss_scaler, train_step


def fit(
    model: nn.Module,
    train_loader: Loader,
    test_loader: Loader,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    batch_transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    device: torch.device | str | None = None,
    precision: str | None = None,
    ema_decay: float = 0.0,
    checkpoint: str | Path | None = None,
    save_minutes: float = 5.0,
    restart: bool = False,
    deterministic: bool = False,
    verbose: bool = True,
) -> History:
    """Train the model, test it after each epoch, and return the :class:`History`.

    The loaders give (images float32 (B, 3, H, W), labels int64 (B,)). ``optimizer`` is SGD with lr 0.04 and
    momentum 0.9 by default; ``scheduler`` is stepped after every batch; ``loss_fn(logits, labels)`` returns
    a mean over the batch (``nn.CrossEntropyLoss(label_smoothing=0.1)``, say, for smoothed labels).
    ``batch_transform(images, labels)`` returns what is trained on instead: as many images, and labels or probabilities
    (B, classes); ``torchvision.transforms.v2.MixUp`` and :class:`Distillation` do. The history's training values are
    then those against these targets. It may draw from the global generators, which a checkpoint keeps; in several
    processes it sees each one's share of a batch.
    ``device`` and ``precision`` ("float32", "bfloat16", "float16") default to the best at hand, and the first line
    printed says which; on a CPU a model with layer normalisations or dilated convolutions in groups trains in float32,
    as torch may get their gradients wrong in a lower precision (:func:`eva_utils.runtime.training_precision` says which
    layers it sees). The model stays on the device, in channels-last layout. After ``model.compile(dynamic=False)`` it
    trains as the program that torch made of it: faster, once that took a minute, and not to the same bits.
    With ``ema_decay``, 0.999 say, an exponential moving average of the weights keeps that share of itself at each
    step (less at first: :class:`eva_utils.averaging.MovingAverage`); it is what is tested, and what the model holds in
    the end.

    With ``checkpoint`` everything is saved there after each epoch and every ``save_minutes``, and the same call goes on
    from it, to the same bits: a finished run returns its history at once. Another network, recipe, seed or set of
    images is refused unless ``restart``, which begins with network, optimizer and schedule as they are handed in. An
    interruption (Ctrl-C, the stop button) ends the run after the batch, saves, and returns the history so far.
    ``deterministic=True`` asks the same bits of a GPU, as the CPU gives them anyway; it may be slower. Raises
    ValueError for arguments that do not fit, OSError where the checkpoint cannot be written, and FloatingPointError
    as soon as a loss is not finite (on a GPU within 50 steps, and before anything is saved), or the weights are not
    when they would be saved.
    """
    epochs, ema_decay, save_minutes = _numbers(epochs, ema_decay, save_minutes)
    loaders = {"train_loader": train_loader, "test_loader": test_loader}
    check_parts(model, loaders, optimizer, batch_transform, loss_fn)
    check_schedule(scheduler, optimizer, epochs * len(train_loader))
    device = torch.device(device) if device else best_device()
    if deterministic:
        prepare_determinism(device)
    precision = training_precision(model, device, precision)
    model.to(device, memory_format=torch.channels_last)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.04, momentum=0.9)
    scaler = loss_scaler(device, precision)
    averaged = MovingAverage(model, ema_decay) if ema_decay else None
    parts = {"model": model, "optimizer": optimizer, "scaler": scaler, "scheduler": scheduler, "averaged": averaged}
    parts = {name: part for name, part in parts.items() if part is not None}
    run = describe(model, train_loader, test_loader, optimizer, scheduler, loss_fn, batch_transform, first_seed(device))
    run["optimizer"] += f", weights averaged with {ema_decay}" if ema_decay else ""
    compiled = getattr(model, "_compiled_call_impl", None) is not None  # torch has no other sign of model.compile()
    run["precision"] = precision + ", deterministic" * deterministic + ", compiled" * compiled
    path = None if checkpoint is None else checkpoint_path(checkpoint)
    generators = [*loader_generators(train_loader), *loader_generators(test_loader)]
    saver = Saver(path, run, parts, 60 * save_minutes, len(train_loader), generators)
    saver.check()
    so_far = EpochSoFar.new(device)
    history = History(run=run) if restart else saver.load(epochs, so_far)
    check_steps_left(scheduler, (epochs - len(history)) * len(train_loader) - so_far.steps)
    verbose = verbose and is_first()
    progress, say = Progress(enabled=verbose), print if verbose else lambda *_, **__: None
    say(f"Training on {device.type} in {precision}, {len(train_loader):,} batches an epoch")
    say(HEADER, *map(history.line, range(len(history))), sep="\n")
    repeatable = deterministic_algorithms() if deterministic else contextlib.nullcontext()
    with repeatable, interruptions() as interrupted, joined(model) as trained:
        settings = {"precision": precision, "classes": count_classes(train_loader)}
        rules = {"optimizer": optimizer, "scheduler": scheduler, "averaged": averaged, "scaler": scaler}
        lessons = {"batch_transform": batch_transform, "loss_fn": loss_fn}
        step = functools.partial(train_step, trained, **rules, **lessons, **settings)
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
    """Return the model's cross entropy, in nats, and accuracy over all images of ``loader``.

    Each image counts the same, whatever batch it is in; the model is left in the mode it was in. With loaders
    that give each process its share, all of them get the values over all images. ``precision`` and errors are those of
    :func:`predict`.
    """
    predictions = predict(model, loader, precision=precision)
    if getattr(loader, "shard", (0, 1))[1] == 1:
        return Evaluation(predictions.loss, predictions.accuracy)
    right = int((predictions.preds == predictions.labels).sum())
    mine = [predictions.loss * len(predictions), right, len(predictions)]
    sums = torch.tensor(mine, dtype=torch.float64, device=device_of(model))
    sum_over_processes(sums)
    loss, right, count = sums.tolist()
    return Evaluation(loss / count, right / count)


def _numbers(epochs: int, ema_decay: float, save_minutes: float) -> tuple[int, float, float]:
    """Return the arguments, or raise ValueError for one out of its range."""
    if ema_decay == 1:
        raise ValueError("ema_decay=1: expected a share below 1, such as 0.999; that one would never leave the start")
    return (
        whole_number("epochs", epochs, least=1),
        real_number("ema_decay", ema_decay, least=0, most=1),
        real_number("save_minutes", save_minutes, least=0),
    )


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
    for batch in batches:
        images, labels = images_and_labels(batch)
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


def _test_epoch(model: nn.Module, loader: Loader, precision: str, so_far: EpochSoFar, history: History) -> None:
    """Test the model and write the epoch down."""
    start = time.perf_counter()
    so_far.gather()
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.set_epoch(len(history))
    test = evaluate(model, loader, precision=precision)
    seconds = so_far.seconds + time.perf_counter() - start
    speed = so_far.images / so_far.seconds
    history.append(so_far.result(), test, lr=so_far.lr, seconds=seconds, images_per_second=speed)


def _from(loader: Loader, epoch: int, so_far: EpochSoFar) -> Iterable[tuple[Tensor, Tensor]]:
    """Return the batches of an epoch but those already done; loaders of this library do not make these at all.

    Others draw the order of an epoch at its start, from a generator: this is brought back to where it was then.
    """
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.set_epoch(epoch, start=so_far.steps * loader.batch_size)
        return loader
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    generators = loader_generators(loader)
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
