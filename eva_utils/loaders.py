"""Loaders whose augmentations never repeat and do not depend on the number of workers.

An albumentations pipeline keeps random generators of its own. Workers inherit copies of them, so in a plain
DataLoader all workers draw the same augmentations, and without persistent workers each epoch draws
the same ones again. Here the generators are made anew for each sample from (seed, epoch, sample).

The fast loader keeps all images on the device and runs the same policy there, on whole batches.
"""

import copy
import math
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from eva_utils.batched import BatchedPolicy
from eva_utils.batched.step import Parameters
from eva_utils.checks import instance, whole_number
from eva_utils.images import ImageSet
from eva_utils.runtime import best_device, usable_cores

MAX_WORKERS = 4
CPU_CHUNK, GPU_CHUNK = 1, 2048  # images to augment at once, or one batch where that is larger
Key = tuple[int, int]  # (epoch, index of the image)


def make_loader(
    image_set: ImageSet,
    transform: A.Compose,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    workers: int | None = None,
    fast: bool = False,
    device: torch.device | str | None = None,
    shard: tuple[int, int] = (0, 1),
) -> "DataLoader | DeviceLoader":
    """Return a loader of batches (images float32 (B, 3, H, W), labels int64 (B,)).

    ``shuffle=True`` is for training: each pass over the loader is the next epoch, with an order and
    augmentations of its own, repeatable for ``seed`` and equal for any number of ``workers``.
    ``shuffle=False`` gives the images in order, and the same augmentations, if any, in each pass.
    ``workers=None`` takes one for each usable core, up to 4; 0 loads in the main process. The last batch
    may be smaller.

    ``fast=True`` gives a :class:`DeviceLoader`, which augments whole batches on ``device`` (default: the best at
    hand) instead of image by image in workers, by the same laws but with other draws. With ``shard=(i, n)`` it gives
    the i-th (from 0) of n processes its share of each batch. Raises ValueError for a policy that it cannot batch; for
    an empty set, a batch size below 1 or workers below 0.
    """
    instance("image_set", image_set, ImageSet, "images such as load_images gives")
    instance("transform", transform, A.Compose, "a policy such as crop_policy gives, an albumentations.Compose")
    batch_size, seed = whole_number("batch_size", batch_size, least=1), whole_number("seed", seed, least=0)
    if len(image_set) == 0:
        raise ValueError(f"{image_set} is empty: a loader needs at least one image")
    if fast:
        if workers is not None:
            raise ValueError(f"workers={workers} with fast=True: the fast loader has no workers, leave them out")
        device = torch.device(device) if device else best_device()
        return DeviceLoader(image_set, transform, batch_size, shuffle=shuffle, seed=seed, device=device, shard=shard)
    if shard != (0, 1):
        raise ValueError(f"shard={shard} without fast=True: the ordinary loader gives whole batches alone")
    if device is not None:
        raise ValueError(f"device={str(device)!r} without fast=True: leave it out, fit moves each batch to its device")
    if workers is None:
        workers = min(usable_cores(), MAX_WORKERS)
    workers = whole_number("workers", workers, least=0)
    return DataLoader(
        _AugmentedImages(image_set, transform, seed),
        batch_size=batch_size,
        sampler=EpochSampler(len(image_set), shuffle=shuffle, seed=seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_init_worker,
        generator=torch.Generator().manual_seed(seed),  # else each pass would move the global one
        pin_memory=torch.cuda.is_available(),
    )


class EpochSampler(Sampler[Key]):
    """Give (epoch, index) for each image once, in an order that depends on the seed and the epoch.

    With ``shuffle`` each pass is the next epoch; ``set_epoch`` chooses it, as in torch's
    DistributedSampler, and where in it the next pass starts. Without it the order is that of the images and the
    epoch stays 0.
    """

    def __init__(self, count: int, *, shuffle: bool, seed: int) -> None:
        self.count, self.shuffle, self.seed = count, shuffle, seed
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Make ``epoch`` (from 0) the next pass, without its first ``start`` images."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Key]:
        epoch, order = self.next_pass()
        return ((epoch, int(index)) for index in order)

    def next_pass(self) -> tuple[int, np.ndarray]:
        """Return the epoch of the next pass and the indices of its images, in order."""
        start, self.start = self.start, 0
        if not self.shuffle:
            return 0, np.arange(start, self.count)
        epoch, self.epoch = self.epoch, self.epoch + 1
        return epoch, np.random.default_rng((self.seed, epoch)).permutation(self.count)[start:]


class DeviceLoader:
    """Give the batches of a set that lies on the device as a whole, augmented there by :class:`BatchedPolicy`.

    It has the face of a DataLoader: length, ``batch_size``, ``dataset`` and ``sampler``. CIFAR-10 takes 184 MB of
    the device's memory. The draws depend on (seed, epoch, sample) alone.
    """

    def __init__(
        self,
        image_set: ImageSet,
        transform: A.Compose,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        if not 0 <= shard[0] < shard[1] <= batch_size:
            raise ValueError(
                f"shard={shard} of batches of {batch_size}: expected (i, n), i from 0 to n - 1, n at most that"
            )
        self.dataset = _AugmentedImages(image_set, transform, seed)
        self.batch_size, self.device, self.shard = batch_size, device, shard
        self.sampler = EpochSampler(len(image_set), shuffle=shuffle, seed=seed)
        self._policy = BatchedPolicy(self.dataset.transform, image_set.images.shape[1:3])
        self._images = torch.from_numpy(image_set.images).movedim(3, 1).contiguous().to(self.device)
        self._labels = torch.from_numpy(image_set.labels).to(self.device)

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, order = self.sampler.next_pass()
        drawn = self._policy.draw(len(self.dataset), seed=self.sampler.seed, epoch=epoch)
        for _, images, labels in self._batches(order, drawn):
            yield images, labels

    def _batches(self, order: np.ndarray, drawn: list[Parameters]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Give the samples of each batch (B,), their images and their labels, all on the device."""
        # with one batch at a time a GPU would mostly wait for the next call, while a CPU's cache holds just one
        chunk = CPU_CHUNK if self.device.type == "cpu" else GPU_CHUNK
        chunk = max(1, chunk // self.batch_size) * self.batch_size
        for first in range(0, len(order), chunk):
            batches = range(first, min(first + chunk, len(order)), self.batch_size)
            shares = [order[start : start + self.batch_size][self.shard[0] :: self.shard[1]] for start in batches]
            sizes = [len(share) for share in shares]
            samples = np.concatenate(shares)
            rows = torch.from_numpy(samples).to(self.device, non_blocking=True)
            images, labels = self._batch(rows, samples, drawn)
            yield from zip(rows.split(sizes), images.split(sizes), labels.split(sizes), strict=True)

    def _batch(self, rows: Tensor, samples: np.ndarray, drawn: list[Parameters]) -> tuple[Tensor, Tensor]:
        if not len(samples):  # the last batch may be smaller than there are processes
            return torch.zeros(0, 3, *self._policy.size, device=self.device), self._labels[:0]
        images = self._policy(self._images.index_select(0, rows), drawn, samples)
        return images, self._labels.index_select(0, rows)


def loader_generators(loader: DataLoader | DeviceLoader) -> list[torch.Generator]:
    """Return the generators that a loader keeps for the order of its samples; those of this library keep none."""
    if isinstance(loader.sampler, EpochSampler):
        return []
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    found = [loader.generator, *(getattr(sampler, "generator", None) for sampler in samplers)]
    return list({id(generator): generator for generator in found if generator is not None}.values())


def augment(image: np.ndarray, transform: A.Compose, *, key: tuple[int, ...]) -> Tensor:
    """Return ``transform`` of the image uint8 (H, W, 3), drawn from ``key`` alone: float32 (3, H, W).

    Loaders use the key (seed, epoch, index). The transform's own random generators are replaced.
    """
    generator = np.random.default_rng(key)
    # set_random_state, not set_random_seed: that one gives every transform of the pipeline the same seed, so
    # that the image is, say, shifted exactly when it is flipped.
    transform.set_random_state(generator, random.Random(generator.bytes(8)))
    return transform(image=image)["image"]


class _AugmentedImages(Dataset):
    def __init__(self, image_set: ImageSet, transform: A.Compose, seed: int) -> None:
        self.image_set, self.seed = image_set, seed
        self.transform = copy.deepcopy(transform)  # the caller's keeps its own generators
        try:
            made = augment(image_set.images[0], self.transform, key=(seed, 0, 0))
        except ValueError as error:
            raise ValueError(
                f"the policy fails on the first image of {image_set} ({error}): is a hole or a crop too large for it?"
            ) from error
        if not torch.is_tensor(made) or made.dtype != torch.float32 or made.ndim != 3:
            what = f"{made.dtype} {tuple(made.shape)}"
            raise ValueError(f"the policy gives images {what}: end it with A.Normalize and ToTensorV2")

    def __len__(self) -> int:
        return len(self.image_set)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        epoch, index = key
        image = self.image_set.images[index]
        tensor = augment(image, self.transform, key=(self.seed, epoch, index))
        return tensor, int(self.image_set.labels[index])


def _init_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is for the main process, which ends them
    cv2.setNumThreads(0)  # the workers are the parallelism; more threads slow each other down
    # torch's own watch over the main process begins too late to see that it has ended while the worker starts
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process()], daemon=True).start()


def _end_with(main: multiprocessing.process.BaseProcess) -> None:
    main.join()
    os._exit(1)
