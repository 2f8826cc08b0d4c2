"""What a training goes on from after a cut: its parts, its place within the epoch and the random state."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eva_utils.checkpoint import load_checkpoint, previous_checkpoint, save_checkpoint
from eva_utils.description import constants_of
from eva_utils.distributed import is_first, processes
from eva_utils.epoch import EpochSoFar
from eva_utils.history import History
from eva_utils.randomness import random_state, set_random_state

AFRESH = "say restart=True to start afresh, or name another file"


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
