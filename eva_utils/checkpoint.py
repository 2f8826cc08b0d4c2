"""Files that are written at once or not at all, and read without running any code in them."""

import contextlib
import glob
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import nn

from eva_utils.checks import instance

DRIVE = Path("/content/drive/MyDrive")
DEAD_AFTER = 60.0  # seconds after which a file that is still being written would have grown


def save_checkpoint(path: str | Path, state: dict[str, Any], *, keep: bool = False) -> None:
    """Write ``state`` (tensors, numbers, strings, and lists and dicts of them, NumPy's too) to ``path``.

    It is written as :func:`written_whole` does, and kept so. Raises OSError where it cannot be written, for instance
    for want of space.
    """
    with written_whole(path, keep=keep) as file:
        _write(_readable(state), file)


def save_weights(path: str | Path, model: nn.Module) -> None:
    """Write the model's state dict, as :func:`written_whole` does, to be loaded on a machine without its device."""
    state = model.state_dict()
    on_cpu = {name: value.cpu().contiguous() if torch.is_tensor(value) else value for name, value in state.items()}
    save_checkpoint(path, on_cpu)


def save_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON, as :func:`written_whole` does. Raises TypeError for what JSON cannot hold."""
    with written_whole(path) as file:
        file.write(f"{json.dumps(value, indent=1)}\n".encode())


@contextlib.contextmanager
def written_whole(path: str | Path, *, keep: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of ``path`` once all of it is on the disk.

    A cut at any moment leaves a whole file, the old one or the new one, and an error leaves the old one; with ``keep``
    the old one stays as :func:`previous_checkpoint` afterwards.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            _keep(path)
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def previous_checkpoint(path: str | Path) -> Path:
    """Return where :func:`save_checkpoint` keeps the file that it replaces."""
    path = Path(path)
    return path.with_name(f"{path.name}.previous")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return what :func:`save_checkpoint` wrote, on the CPU. Nothing in the file is run.

    Raises FileNotFoundError, and ValueError if the file is no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load looks at no checksum
        if damaged:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a damaged or foreign file
        reason = _reason(error)
        raise ValueError(f"{str(path)!r} is no readable checkpoint ({reason}): name another file") from error
    if not isinstance(state, dict):
        raise ValueError(f"{str(path)!r} holds a {type(state).__name__}, no checkpoint: name another file")
    return state


def checkpoint_path(path: str | Path) -> Path:
    """Return the path with links and ``~`` followed; raise ValueError where no file can be."""
    instance("checkpoint", path, (str, os.PathLike), "a path")
    resolved = Path(path).expanduser().resolve()
    if not os.fspath(path) or (resolved.exists() and not resolved.is_file()):
        raise ValueError(f"checkpoint={str(path)!r} is no file: name a file, such as runs/checkpoint.pt")
    return resolved


def on_drive(name: str) -> Path:
    """Return the path of ``name`` on the Google Drive of a Colab session, to keep a checkpoint there.

    Raises FileNotFoundError, saying how to mount it, where Drive is not there.
    """
    if not DRIVE.is_dir():
        raise FileNotFoundError(
            f"Google Drive is not mounted at {DRIVE}: in Colab run `from google.colab import drive; "
            'drive.mount("/content/drive")` first; elsewhere name a file on your disk'
        )
    return DRIVE / "eva_utils" / name


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch's own, raised while it cleans up after the disk's
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _readable(value: Any) -> Any:
    """Return the value without NumPy's types, which are not read back."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {_readable(name): _readable(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_readable, value))
    return value


def _reason(error: Exception) -> str:
    """Return why a file was not read, without torch's advice to run what is in it."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds {refused[1]}, which is no plain value"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _sweep(path: Path) -> None:
    """Remove what killed saves have left beside the file; what is younger may be another process's."""
    for kind in ("part", "link"):
        for left in path.parent.glob(f"{glob.escape(path.name)}.*.{kind}"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > DEAD_AFTER:
                    left.unlink()


def _keep(path: Path) -> None:
    """Give the file a second name; where the disk knows no links, copy it."""
    previous = previous_checkpoint(path)
    link = path.with_name(f"{path.name}.{os.getpid()}.link")
    try:
        try:
            os.link(path, link)
        except OSError:
            shutil.copyfile(path, link)
        os.replace(link, previous)
    finally:
        link.unlink(missing_ok=True)
