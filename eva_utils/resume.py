"""What a training goes on from after a cut: its parts, its place within the epoch and the random state."""

import contextlib
import math
import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eva_utils.checkpoint import load_checkpoint, previous_checkpoint, save_checkpoint
from eva_utils.description import constants_of
from eva_utils.distributed import is_first, processes, sum_over_processes
from eva_utils.history import Evaluation, History

NEVER = 2**62
AFRESH = "say restart=True to start afresh, or name another file"
REMEDY = "lower the learning rate or warm up longer, and start again"


@dataclass
class EpochSoFar:
    """How far an epoch is: the batches done, and the sums over their images, which stay on the device."""

    loss: Tensor
    correct: Tensor
    bad_step: Tensor  # the first step whose loss was not finite, and its lr
    bad_lr: Tensor
    steps: int = 0
    images: int = 0
    lr: float = math.nan
    seconds: float = 0.0
    start: dict[str, Any] = field(default_factory=dict)  # the random state before the first batch

    @classmethod
    def new(cls, device: torch.device) -> "EpochSoFar":
        """Return the state before the first batch."""
        zero = torch.zeros((), device=device)
        whole = torch.zeros((), device=device, dtype=torch.int64)
        return cls(loss=zero, correct=whole, bad_step=torch.full_like(whole, NEVER), bad_lr=torch.zeros_like(zero))

    def add(self, loss: Tensor, correct: Tensor, lr: float, images: int) -> None:
        """Count one more batch, of this mean loss and this number of right predictions."""
        self.loss = self.loss + loss * images
        self.correct = self.correct + correct
        first = ~loss.isfinite() & (self.bad_step == NEVER)
        self.steps, self.images, self.lr = self.steps + 1, self.images + images, lr
        self.bad_step = torch.where(first, self.steps, self.bad_step)
        self.bad_lr = torch.where(first, lr, self.bad_lr)

    def gather(self) -> None:
        """Count the images of all processes that train together."""
        images = torch.tensor(self.images, device=self.loss.device)
        sum_over_processes(self.loss, self.correct, images)
        self.images = int(images)

    def result(self) -> Evaluation:
        """Return the mean loss and the accuracy so far."""
        return Evaluation(self.loss.item() / self.images, self.correct.item() / self.images)

    def check_finite(self, epoch: int) -> None:
        """Raise FloatingPointError if a loss was not finite. This waits for the device."""
        if self.bad_step.item() < NEVER:
            raise FloatingPointError(
                f"the training loss is not finite since step {self.bad_step.item():,} of epoch {epoch}, at learning "
                f"rate {self.bad_lr.item():.2e}: {REMEDY}"
            )

    def check_weights(self, model: nn.Module, epoch: int) -> None:
        """Raise FloatingPointError if a weight or a statistic is not finite, as after a step that went too far.

        The step's own loss is still finite then. This waits for the device.
        """
        values = [value for value in model.state_dict().values() if value.is_floating_point()]
        if values and not torch.stack([value.isfinite().all() for value in values]).all():
            raise FloatingPointError(
                f"the weights are not finite after step {self.steps:,} of epoch {epoch}, at learning rate "
                f"{self.lr:.2e}: {REMEDY}"
            )


@dataclass
class Saver:
    """Keeps a training in a file, or nowhere if ``path`` is None.

    ``run`` says in words what makes it another training; ``parts`` are model, optimizer and the like.
    """

    path: Path | None
    run: dict[str, str]
    parts: dict[str, Any]
    seconds: float
    steps: int  # of an epoch
    generators: list[torch.Generator]  # that the loaders keep
    saved: float = field(default_factory=time.monotonic)
    failed: bool = False  # the last save

    def check(self) -> None:
        """Raise OSError, before anything is trained, where nothing can be written."""
        if self.path is None or not is_first():
            return
        probe = self.path.with_name(f"{self.path.name}.probe")
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot keep checkpoints in {str(self.path.parent)!r} ({error.strerror}): name another file",
            ) from error

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        if self.path is None or processes() > 1:  # these would not all come to it at one step
            return False
        return time.monotonic() - self.saved >= self.seconds

    @property
    def advice(self) -> str:
        """What to do after an interruption, to end a sentence with."""
        if self.failed:
            return ": free some space; until a save succeeds this is lost"
        return ": run it again to go on" if self.path else ": without a checkpoint it cannot go on"

    def save(self, history: History, so_far: EpochSoFar) -> None:
        """Write everything down; where the disk refuses, say so and let the training go on."""
        if self.path is None or not is_first():
            return
        self.saved = time.monotonic()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"history": asdict(history), "run": self.run, "epoch": dict(vars(so_far))}
        state["random"] = random_state(self.generators)
        try:
            save_checkpoint(self.path, state, keep=True)
            self.failed = False
        except OSError as error:
            self.failed = True
            before = "the file before it is whole" if self.path.exists() else "there is no file yet"
            print(f"could not save {str(self.path)!r} ({error}): the training goes on; {before}")

    def load(self, epochs: int, so_far: EpochSoFar) -> History:
        """Bring the parts, ``so_far`` and the random state to where they were; return the history so far.

        A damaged or missing file is passed over for the one before it, saying so. Raises ValueError for a file of
        another training, and if no file can be read.
        """
        path, state, problem = self._read()
        if state is None:
            return History(run=self.run)
        for name, value in self.run.items():
            before = state["run"].get(name, "None")  # what runs did not have yet when the file was written
            if before != value:
                was = ", not ".join(_differing(before, value))
                raise ValueError(f"{str(path)!r} is of another run, its {name} was {was}: {AFRESH}")
        try:
            history = History.from_lists({**state["history"], "run": self.run})
            if len(history) <= epochs:
                self._restore(state, so_far)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{str(path)!r} names this run, but does not fit it ({error!r}): {AFRESH}") from error
        if len(history) > epochs:
            raise ValueError(
                f"{str(path)!r} holds {len(history)} epochs, more than the {epochs} asked for: name another file"
            )
        if path != self.path and is_first():
            print(f"{problem}; going on from the file before it")
            if self.path.exists():  # else the next save would keep the damaged file in place of the good one
                os.replace(self.path, self.path.with_name(f"{self.path.name}.damaged"))
        return history

    def _restore(self, state: dict[str, Any], so_far: EpochSoFar) -> None:
        if constants_of(state["optimizer"]["param_groups"]) != constants_of(self.parts["optimizer"].param_groups):
            raise ValueError("the settings of its optimizer are others")
        if not 0 <= state["epoch"]["steps"] <= self.steps or state["epoch"]["images"] < state["epoch"]["steps"]:
            raise ValueError(f"its place in the epoch is not one of {self.steps} steps")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for name, before in vars(so_far).items():
            value = state["epoch"][name]
            if type(value) is not type(before):
                raise TypeError(f"{name} of the epoch is {type(value).__name__}, not {type(before).__name__}")
            setattr(so_far, name, value.to(so_far.loss.device) if isinstance(value, Tensor) else value)
        set_random_state(state["random"], self.generators)

    def _read(self) -> tuple[Path | None, dict[str, Any] | None, str]:
        """Return the newest file that can be read, what is in it, and what is wrong with a newer one."""
        if self.path is None:
            return None, None, ""
        problems = []
        for path in (self.path, previous_checkpoint(self.path)):
            if not path.exists():
                problems.append(f"there is no {str(path)!r}")
                continue
            try:
                state = load_checkpoint(path)
            except ValueError as error:
                problems.append(str(error))
                continue
            parts = {"model", "optimizer", "history", "run", "epoch", "random"}
            if all(isinstance(state.get(part), dict) for part in parts):
                return path, state, "; ".join(problems)
            problems.append(f"{str(path)!r} holds no checkpoint of such a run: name another file")
        if any(not problem.startswith("there is no") for problem in problems):
            raise ValueError("; ".join(problems))
        return None, None, ""


def _differing(before: str, now: str) -> tuple[str, str]:
    """Return two descriptions, or of long ones only the words that differ, and three before each."""
    old, new = before.split(), now.split()
    if max(len(before), len(now)) < 200 or len(old) != len(new):
        return before, now
    changed = [place for place in range(len(old)) if old[place] != new[place]]
    shown = sorted({place for end in changed for place in range(max(0, end - 3), end + 1)})
    return " ".join(old[place] for place in shown), " ".join(new[place] for place in shown)


@contextlib.contextmanager
def interruptions() -> Iterator[list[bool]]:
    """Give a list that becomes true when the user interrupts, so that a batch is finished first.

    A second interruption stops at once. Outside the main thread, which alone receives them, it stays empty, as it
    does where several processes train together: they would not all stop after the same batch.
    """
    seen: list[bool] = []
    if threading.current_thread() is not threading.main_thread() or processes() > 1:
        yield seen
        return
    before = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: Any) -> None:
        if seen:
            signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt
        seen.append(True)

    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def random_state(generators: Iterable[torch.Generator] = ()) -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's generators, and of these, in types a checkpoint can hold."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else [],
        "own": [generator.get_state() for generator in generators],
    }


def set_random_state(state: dict[str, Any], generators: Iterable[torch.Generator] = ()) -> None:
    """Bring all generators to what :func:`random_state` returned."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
    if state["mps"] and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"][0])
    for generator, own in zip(generators, state["own"], strict=True):
        generator.set_state(own)
