"""The training loop, from top to bottom."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from eva_utils.checkpoint import load_checkpoint, save_checkpoint
from eva_utils.history import HEADER, Evaluation, History
from eva_utils.predictions import predict
from eva_utils.progress import Progress
from eva_utils.runtime import autocast, best_device, best_precision


def fit(
    model: nn.Module,
    train_loader: DataLoader,
    test_loader: DataLoader,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    device: torch.device | str | None = None,
    precision: str | None = None,
    checkpoint: str | Path | None = None,
    verbose: bool = True,
) -> History:
    """Train the model, test it after each epoch, and return the :class:`History`.

    The loaders give (images float32 (B, 3, H, W), labels int64 (B,)). ``optimizer`` is SGD with lr 0.04 and
    momentum 0.9 by default; ``scheduler`` is stepped after every batch; ``loss_fn(logits, labels)`` returns
    a mean over the batch. ``device`` and ``precision`` ("float32", "bfloat16", "float16") default to the best
    at hand, and the first line printed says which. The model stays on the device, in channels-last layout.

    With ``checkpoint`` the state is saved there after each epoch, and the same call goes on from it: a finished run
    returns its history at once, and another network, recipe, seed or set of images is refused. Raises ValueError
    for arguments that do not fit and FloatingPointError as soon as an epoch's loss is not finite.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: expected 1 or more")
    device = torch.device(device) if device else best_device()
    precision = precision or best_precision(device)
    model.to(device, memory_format=torch.channels_last)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.04, momentum=0.9)
    # a start at torch's 2**16 would overflow: a step would be skipped, and the scheduler would warn of it
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=precision == "float16")
    state = {"model": model, "optimizer": optimizer, "scaler": scaler}
    if scheduler is not None:
        state["scheduler"] = scheduler
    run = _describe(model, train_loader, optimizer, scheduler, precision)
    history = _resume(checkpoint, run, state, epochs)
    progress, say = Progress(enabled=verbose), print if verbose else lambda *_, **__: None
    say(f"Training on {device.type} in {precision}, {len(train_loader):,} batches an epoch")
    say(HEADER, *map(history.line, range(len(history))), sep="\n")
    for epoch in range(len(history), epochs):
        start = time.perf_counter()
        if hasattr(train_loader.sampler, "set_epoch"):
            train_loader.sampler.set_epoch(epoch)
        batches = progress.track(train_loader, f"epoch {epoch + 1}", total=len(train_loader))
        train, lr = _train_epoch(model, batches, optimizer, scheduler, loss_fn, scaler, precision)
        _check_finite(train.loss, epoch, optimizer)
        speed = len(train_loader.sampler) / (time.perf_counter() - start)
        test = evaluate(model, test_loader, precision=precision)
        history.append(train, test, lr=lr, seconds=time.perf_counter() - start, images_per_second=speed)
        _save(checkpoint, run, state, history)
        say(history.line(epoch))
    return history


def evaluate(model: nn.Module, loader: DataLoader, *, precision: str = "float32") -> Evaluation:
    """Return the model's cross entropy and accuracy over all images of ``loader``.

    Each image counts the same, whatever batch it is in; the model is left in the mode it was in.
    """
    predictions = predict(model, loader, precision=precision)
    return Evaluation(predictions.loss, predictions.accuracy)


def _train_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    scaler: torch.amp.GradScaler,
    precision: str,
) -> tuple[Evaluation, float]:
    """Take one step a batch; return the loss and accuracy seen on the way, and the last step's lr."""
    device = next(model.parameters()).device
    model.train()
    loss_sum = torch.zeros((), device=device)  # summed on the device: reading it would wait for it
    correct = torch.zeros((), device=device, dtype=torch.int64)
    count = 0
    for images, labels in batches:
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        with autocast(device, precision):
            logits = model(images)
            loss = loss_fn(logits.float(), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        lr = float(optimizer.param_groups[0]["lr"])
        scaler.step(optimizer)
        scaler.update()
        if scheduler is not None:
            scheduler.step()
        loss_sum += loss.detach() * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum()
        count += len(labels)
    return Evaluation(loss_sum.item() / count, correct.item() / count), lr


def _check_finite(loss: float, epoch: int, optimizer: torch.optim.Optimizer) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the training loss of epoch {epoch + 1} is {loss}: lower the learning rate (it was "
            f"{optimizer.param_groups[0]['lr']:.2e}) and start again"
        )


def _describe(
    model: nn.Module,
    train_loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    precision: str,
) -> dict[str, str]:
    """Return in words what makes a run another run: a checkpoint goes on with the same alone."""
    groups = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
    dataset = train_loader.dataset
    return {
        "network": f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "images": repr(getattr(dataset, "image_set", f"{len(dataset):,} images")),
        "policy": str(getattr(dataset, "transform", "")),
        "batch size": str(train_loader.batch_size),
        "seed": str(getattr(train_loader.sampler, "seed", None)),
        "optimizer": f"{type(optimizer).__name__} {groups}",
        "schedule": f"{type(scheduler).__name__}, {getattr(scheduler, 'total_steps', None)} steps",
        "precision": precision,
    }


def _save(path: str | Path | None, run: dict[str, str], state: dict[str, Any], history: History) -> None:
    if path is not None:
        parts = {name: part.state_dict() for name, part in state.items()}
        save_checkpoint(path, {**parts, "history": asdict(history), "run": run})


def _resume(path: str | Path | None, run: dict[str, str], state: dict[str, Any], epochs: int) -> History:
    """Load the checkpoint, if there is one, into the parts of the run; return its history so far."""
    if path is None or not Path(path).exists():
        return History(run=run)
    saved = load_checkpoint(path)
    if sorted(saved) != sorted([*state, "history", "run"]):
        raise ValueError(f"{str(path)!r} holds no checkpoint of such a run: delete it or name another file")
    for name, value in run.items():
        if saved["run"].get(name) != value:
            raise ValueError(
                f"{str(path)!r} is of another run, its {name} was {saved['run'].get(name)}, not {value}: delete it to "
                "start afresh, or name another file"
            )
    history = History.from_lists({**saved["history"], "run": run})
    if len(history) > epochs:
        raise ValueError(
            f"{str(path)!r} holds {len(history)} epochs, more than the {epochs} asked for: name another file"
        )
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return history
