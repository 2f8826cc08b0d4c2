"""The training loop, from top to bottom, and the history that it leaves."""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from eva_utils.checkpoint import load_checkpoint, save_checkpoint
from eva_utils.predictions import predict
from eva_utils.progress import Progress
from eva_utils.runtime import autocast, best_device, best_precision

HEADER = "epoch  train loss      acc  test loss      acc         lr  seconds  images/s"


class Evaluation(NamedTuple):
    """Mean loss over all images, and the share that is predicted right (0 to 1)."""

    loss: float
    acc: float


@dataclass(frozen=True)
class History:
    """What :func:`fit` measured: lists of one value an epoch.

    Losses are means over images in nats, accuracies 0 to 1, ``lr`` the first parameter group's learning
    rate of the epoch's last step, ``seconds`` the whole epoch's and ``images_per_second`` the training
    pass's alone. The training values are those of the augmented images, seen while the weights moved.
    """

    train_loss: list[float] = field(default_factory=list)
    train_acc: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_acc: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    images_per_second: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.train_loss)

    def __repr__(self) -> str:
        last = f", last test accuracy {self.test_acc[-1]:.2%}" if len(self) else ""
        return f"History({len(self)} epochs{last})"

    def line(self, epoch: int) -> str:
        """Return the line that :func:`fit` prints for ``epoch`` (from 0)."""
        return (
            f"{epoch + 1:5d}  {self.train_loss[epoch]:10.4f}  {self.train_acc[epoch]:7.2%}"
            f"  {self.test_loss[epoch]:9.4f}  {self.test_acc[epoch]:7.2%}  {self.lr[epoch]:9.2e}"
            f"  {self.seconds[epoch]:7.1f}  {self.images_per_second[epoch]:8,.0f}"
        )

    def append(
        self, train: Evaluation, test: Evaluation, *, lr: float, seconds: float, images_per_second: float
    ) -> None:
        """Add the values of one more epoch."""
        row = (train.loss, train.acc, test.loss, test.acc, lr, seconds, images_per_second)
        for values, value in zip(vars(self).values(), row, strict=True):
            values.append(value)

    def save(self, path: str | Path) -> None:
        """Write the lists to a JSON file."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "History":
        """Return the history that :meth:`save` wrote. Raises ValueError if the file holds none."""
        try:
            return cls.from_lists(json.loads(Path(path).read_text()))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{str(path)!r} is no history ({error})") from error

    @classmethod
    def from_lists(cls, lists: dict[str, list[float]]) -> "History":
        """Return the history of these lists. Raises ValueError for other names or unequal lengths."""
        names = [f.name for f in fields(cls)]
        if not isinstance(lists, dict) or sorted(lists) != sorted(names):
            raise ValueError(f"expected the lists {', '.join(names)}, not {lists!r:.80}")
        if len({len(values) for values in lists.values()}) != 1:
            raise ValueError("the lists of a history have one value an epoch: these differ in length")
        return cls(**{name: list(lists[name]) for name in names})


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

    With ``checkpoint`` the state is saved there after each epoch, and the same call goes on from it: a finished
    run returns its history at once. Raises ValueError for arguments that do not fit and FloatingPointError as soon
    as an epoch's loss is not finite.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: expected 1 or more")
    device = torch.device(device) if device else best_device()
    precision = precision or best_precision(device)
    model.to(device, memory_format=torch.channels_last)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.04, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    state = {"model": model, "optimizer": optimizer, "scaler": scaler}
    if scheduler is not None:
        state["scheduler"] = scheduler
    history = _resume(checkpoint, state)
    if len(history) > epochs:
        raise ValueError(
            f"{str(checkpoint)!r} holds {len(history)} epochs, more than the {epochs} asked for: name another file"
        )
    progress = Progress(enabled=verbose)
    if verbose:
        print(f"Training on {device.type} in {precision}, {len(train_loader):,} batches an epoch")
        print(HEADER, *map(history.line, range(len(history))), sep="\n")
    for epoch in range(len(history), epochs):
        start = time.perf_counter()
        if hasattr(train_loader.sampler, "set_epoch"):
            train_loader.sampler.set_epoch(epoch)
        batches = progress.track(train_loader, f"epoch {epoch + 1}", total=len(train_loader))
        train, lr = _train_epoch(model, batches, optimizer, scheduler, loss_fn, scaler, precision)
        _check_finite(train.loss, epoch, optimizer)
        trained = time.perf_counter()
        test = evaluate(model, test_loader, precision=precision)
        history.append(
            train,
            test,
            lr=lr,
            seconds=time.perf_counter() - start,
            images_per_second=len(train_loader.sampler) / (trained - start),
        )
        _save(checkpoint, state, history)
        if verbose:
            print(history.line(epoch))
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


def _save(path: str | Path | None, state: dict[str, Any], history: History) -> None:
    if path is not None:
        parts = {name: part.state_dict() for name, part in state.items()}
        save_checkpoint(path, {**parts, "history": asdict(history)})


def _resume(path: str | Path | None, state: dict[str, Any]) -> History:
    """Load the checkpoint, if there is one, into the parts of the run; return its history so far."""
    if path is None or not Path(path).exists():
        return History()
    saved = load_checkpoint(path)
    if sorted(saved) != sorted([*state, "history"]):
        raise ValueError(f"{str(path)!r} holds no checkpoint of such a run: name another file")
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return History.from_lists(saved["history"])
