"""Class folders of images, decoded once into one cached array file."""

import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from eva_utils.checkpoint import written_whole
from eva_utils.progress import Progress
from eva_utils.runtime import usable_cores

SPLITS = ("train", "test")
SUFFIXES = (".jpg", ".jpeg", ".png")
IGNORED = {"Thumbs.db", "desktop.ini"}  # what file managers leave behind, as are names that start with "."

Split = tuple[np.ndarray, np.ndarray]  # images uint8 (N, H, W, 3), labels int64 (N,)
Splits = tuple[Split, ...]  # train and test


def load_folder(folder: Path, *, cache: Path, size: int = 32, verbose: bool = True) -> tuple[Splits, tuple[str, ...]]:
    """Return ((train, test), classes) of ``folder/{train,test}/<class>/*.{jpg,jpeg,png}``.

    Each split is (images uint8 (N, size, size, 3), labels int64 (N,)), ordered by class and then by file name;
    the classes are in order of the alphabet. Grey images are converted to RGB. The decoded arrays are kept in
    one file in ``cache`` and made anew when a file's name, size or time of change differs or the file is damaged.

    Raises FileNotFoundError for a missing split and ValueError for an empty class, classes that differ between
    train and test, and an image that is unreadable, transparent or not ``size`` x ``size``; each names it.
    """
    listing = {split: _list_images(folder / split) for split in SPLITS}
    classes = tuple(listing["train"])
    _check_same_classes(folder, set(classes), set(listing["test"]))
    fingerprint = _fingerprint(listing, size)
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    cached = cache / f"folder-{key}.npz"
    splits = read_splits(cached, fingerprint)
    if splits is None:
        splits = _decode(listing, size, verbose)
        try:
            write_splits(cached, fingerprint, splits)
        except OSError as error:
            warnings.warn(
                f"the decoded images could not be kept ({error}) and will be decoded again next time: "
                "set EVA_CACHE to a folder that can be written",
                stacklevel=3,
            )
    return splits, classes


def _list_images(folder: Path) -> dict[str, list[os.DirEntry]]:
    """Return the image files of each class folder, all sorted by name."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(folder)!r}: expected {folder.name}/<class>/*.jpg or *.png in it"
        )
    listing = {}
    for entry in _visible(folder):
        if not entry.is_dir():
            raise ValueError(f"{entry.path!r} is no class folder: move it away")
        listing[entry.name] = files = _visible(Path(entry.path))
        if not files:
            raise ValueError(f"class folder {entry.path!r} is empty: add images or delete it")
        for file in files:
            if not file.name.lower().endswith(SUFFIXES) or not file.is_file():
                raise ValueError(f"{file.path!r} is not one of {', '.join(SUFFIXES)}: convert it or move it away")
    if not listing:
        raise ValueError(f"{str(folder)!r} holds no class folders: add one folder a class")
    return listing


def _visible(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        kept = [e for e in entries if not e.name.startswith(".") and e.name not in IGNORED]
    return sorted(kept, key=lambda entry: entry.name)


def _check_same_classes(folder: Path, train: set[str], test: set[str]) -> None:
    if train != test:
        only = {"train": sorted(train - test), "test": sorted(test - train)}
        differing = "; ".join(f"only in {k}: {', '.join(v)}" for k, v in only.items() if v)
        raise ValueError(f"train and test of {str(folder)!r} have different classes ({differing}): give both the same")


def _fingerprint(listing: dict[str, dict[str, list[os.DirEntry]]], size: int) -> str:
    digest = hashlib.sha256(f"1 {size}\n".encode())  # 1: the layout of the cache file
    for split, classes in listing.items():
        for name, files in classes.items():
            for file in files:
                stat = file.stat()
                line = f"{split}/{name}/{file.name} {stat.st_size} {stat.st_mtime_ns}\n"
                digest.update(line.encode())
    return digest.hexdigest()


def read_splits(path: Path, fingerprint: str) -> Splits | None:
    """Return what :func:`write_splits` kept, or None if it is missing, stale or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["fingerprint"]) != fingerprint:
                return None
            return tuple((arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in SPLITS)
    except Exception:  # a damaged file raises many types; whatever it is, it is made anew
        return None


def write_splits(path: Path, fingerprint: str, splits: Splits) -> None:
    """Write train and test at once, or not at all: a cut leaves the old file."""
    arrays = {}
    for name, (images, labels) in zip(SPLITS, splits, strict=True):
        arrays |= {f"{name}_images": images, f"{name}_labels": labels}
    with written_whole(path) as file:
        np.savez(file, fingerprint=np.array(fingerprint), **arrays)


def _decode(listing: dict[str, dict[str, list[os.DirEntry]]], size: int, verbose: bool) -> Splits:
    paths = {split: [file.path for files in classes.values() for file in files] for split, classes in listing.items()}
    total = sum(map(len, paths.values()))
    splits = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        decoded = pool.map(partial(_decode_image, size=size), chain(*paths.values()))
        decoded = Progress(enabled=verbose).track(decoded, "decoding images", total=total)
        for split, classes in listing.items():
            images = np.empty((len(paths[split]), size, size, 3), np.uint8)
            for index in range(len(images)):
                images[index] = next(decoded)
            counts = [len(files) for files in classes.values()]
            splits.append((images, np.repeat(np.arange(len(counts), dtype=np.int64), counts)))
    return tuple(splits)


def _decode_image(path: str, size: int) -> np.ndarray:
    """Return the image as uint8 (size, size, 3), or raise ValueError naming the file."""
    try:
        with Image.open(path) as image:
            if image.size == (size, size):
                image.load()
    except Exception as error:  # Pillow raises many types for damaged files
        raise ValueError(f"{path!r} cannot be read as an image ({error}): replace it") from error
    if image.size != (size, size):
        width, height = image.size
        raise ValueError(f"{path!r} is {width}x{height} pixels: resize it to {size}x{size}")
    if image.has_transparency_data:
        raise ValueError(f"{path!r} is transparent: flatten it onto a background")
    if image.mode not in ("RGB", "L", "P", "1"):
        raise ValueError(f"{path!r} has colour mode {image.mode}: convert it to 8-bit RGB")
    return np.asarray(image.convert("RGB"))
