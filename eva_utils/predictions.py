"""The logits of a whole set of images, computed once; every analysis follows from them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from eva_utils.checks import whole_number
from eva_utils.images import ImageSet
from eva_utils.runtime import autocast, device_of


@dataclass(frozen=True)
class Predictions:
    """What a network says of a set of images, in the order of the set, on the CPU.

    ``logits`` is float32 (N, classes), ``labels`` int64 (N,). Raises ValueError where they do not fit.
    """

    logits: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.int64:
            raise ValueError(f"labels are {self.labels.dtype}: expected torch.int64, the number of each image's class")
        shape = tuple(self.logits.shape)
        if len(shape) != 2 or self.labels.shape != shape[:1] or not len(self.labels):
            raise ValueError(
                f"logits {shape} and labels {tuple(self.labels.shape)}: expected (N, classes) and (N,), N at least 1"
            )
        _check_labels(self.labels, shape[1])
        bad = (~self.logits.isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"the logits of {len(bad):,} images, the first at index {bad[0]}, are not finite: look for weights or "
                "images that are not, or predict in float32"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def probs(self) -> Tensor:
        """The probabilities (N, classes): the softmax of the logits."""
        return self.logits.softmax(dim=1)

    @cached_property
    def preds(self) -> Tensor:
        """The predicted classes, int64 (N,)."""
        return self.logits.argmax(dim=1)

    @cached_property
    def losses(self) -> Tensor:
        """The cross entropy of each image, in nats: (N,)."""
        return F.cross_entropy(self.logits, self.labels, reduction="none")

    @property
    def loss(self) -> float:
        """The mean cross entropy, in nats."""
        return self.losses.double().mean().item()

    @property
    def accuracy(self) -> float:
        """The share of images that are predicted right: 0 to 1."""
        return (self.preds == self.labels).double().mean().item()

    def mistakes(self) -> Tensor:
        """Return the indices of the images that are predicted wrong, the worst (highest loss) first."""
        wrong = (self.preds != self.labels).nonzero().flatten()
        return wrong[self.losses[wrong].argsort(descending=True, stable=True)]

    def uncertain(self) -> Tensor:
        """Return the indices of the images that are predicted right, the least probable prediction first."""
        right = (self.preds == self.labels).nonzero().flatten()
        return right[self.probs.amax(dim=1)[right].argsort(stable=True)]

    def class_accuracy(self) -> Tensor:
        """Return the share of each class's images that is predicted right: (classes,); nan without images."""
        counts = self.confusion().double()
        return counts.diagonal() / counts.sum(dim=1)

    def confusion(self) -> Tensor:
        """Return how many images of each true class (row) are predicted as each class: int64 (classes, classes)."""
        classes = self.logits.shape[1]
        return torch.bincount(self.labels * classes + self.preds, minlength=classes**2).reshape(classes, classes)

    def most_confused(self, count: int = 10) -> list[tuple[int, int, int]]:
        """Return the pairs (true class, predicted class, images) that are confused most often, the worst first.

        At most ``count`` of them; raises ValueError unless that is 1 or more.
        """
        count = whole_number("count", count, least=1)
        counts = self.confusion().fill_diagonal_(0)
        pairs = [(int(counts[true, pred]), int(true), int(pred)) for true, pred in counts.nonzero()]
        pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
        return [(true, pred, images) for images, true, pred in pairs[:count]]

    def calibration(self, bins: int = 15) -> "Calibration":
        """Compare the probability of the predicted class with how often it is right, in ``bins`` equal bins.

        Raises ValueError unless there is a bin.
        """
        bins = whole_number("bins", bins, least=1)
        confidence, right = self.probs.amax(dim=1).double(), (self.preds == self.labels).double()
        number = (confidence * bins).long().clamp(max=bins - 1)
        counts = torch.bincount(number, minlength=bins)
        means = [torch.bincount(number, values, minlength=bins) / counts for values in (confidence, right)]
        return Calibration(means[0].numpy(), means[1].numpy(), counts.numpy())


@dataclass(frozen=True)
class Calibration:
    """In each bin of confidence its mean, the share that is right (both nan in an empty bin) and the images."""

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap between the two, weighted by images (Guo et al. 2017)."""
        gaps = np.nan_to_num(np.abs(self.confidence - self.accuracy))
        return float((gaps * self.counts).sum() / self.counts.sum())


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode, and each of its modules back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def predict(model: nn.Module, loader: DataLoader, *, precision: str = "float32") -> Predictions:
    """Return the model's logits over all batches of ``loader``, in the loader's order.

    The model runs on the device that it is on, in eval mode, and is left in the mode it was in.
    ``precision`` is "float32", "bfloat16" or "float16". Raises ValueError for a loader without batches and
    for logits and labels that do not fit, or logits that are not finite.
    """
    if not hasattr(loader, "__iter__"):
        raise ValueError(f"the loader is a {type(loader).__name__}: expected one such as make_loader gives")
    device, classes = device_of(model), count_classes(loader)
    logits, labels = [], []
    with eval_mode(model), autocast(device, precision):
        for batch in loader:
            images, batch_labels = images_and_labels(batch)
            check_batch(images, batch_labels)
            outputs = model(images.to(device, non_blocking=True))
            check_logits(outputs, batch_labels, classes)
            logits.append(outputs.float().cpu())
            labels.append(batch_labels.cpu())
    if not logits:
        raise ValueError("the loader gives no batches: it needs at least one image")
    return Predictions(torch.cat(logits), torch.cat(labels))


def check_same_images(image_set: ImageSet, predictions: Predictions) -> None:
    """Raise ValueError unless the predictions are of the set's images, in its order, and of its classes."""
    if len(predictions) != len(image_set):
        raise ValueError(f"{len(predictions)} predictions of {image_set}: predict the same images, unshuffled")
    if predictions.logits.shape[1] != len(image_set.classes):
        raise ValueError(
            f"predictions of {predictions.logits.shape[1]} classes, but {image_set}: build the network with "
            f"num_classes={len(image_set.classes)}"
        )
    if not np.array_equal(predictions.labels.numpy(), image_set.labels):
        raise ValueError(f"the predictions' labels are not those of {image_set}: predict the same images, unshuffled")


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the two parts of a batch, or raise ValueError if it has others."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
        raise ValueError(f"the loader gives {what}: expected pairs (images, labels)")
    return batch[0], batch[1]


def count_classes(loader: Any) -> int | None:
    """Return how many classes the loader's images have, if they are an ImageSet."""
    image_set = getattr(getattr(loader, "dataset", None), "image_set", None)
    return None if image_set is None else len(image_set.classes)


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless images are floating point (B, 3, H, W) and labels int64 (B,)."""
    if not (torch.is_tensor(images) and images.is_floating_point() and images.ndim == 4 and images.shape[1] == 3):
        what = f"{images.dtype} {tuple(images.shape)}" if torch.is_tensor(images) else type(images).__name__
        raise ValueError(f"the loader gives images {what}: expected normalised floats (B, 3, height, width)")
    if not (torch.is_tensor(labels) and labels.dtype == torch.int64 and labels.shape == images.shape[:1]):
        what = f"{labels.dtype} {tuple(labels.shape)}" if torch.is_tensor(labels) else type(labels).__name__
        raise ValueError(f"the loader gives labels {what}: expected torch.int64 ({len(images)},), one an image")


def check_logits(logits: Tensor, labels: Tensor, classes: int | None = None) -> None:
    """Raise ValueError unless the network gave logits (B, classes), one row an image, and the labels are of these.

    Labels on a GPU are not looked at: that would wait for it.
    """
    if not torch.is_tensor(logits):
        raise ValueError(f"the network gives a {type(logits).__name__}: expected one tensor of logits (B, classes)")
    if logits.ndim != 2 or len(logits) != len(labels):
        count = len(labels)
        raise ValueError(
            f"the network gives {tuple(logits.shape)} for {count} images: expected logits ({count}, classes)"
        )
    width = logits.shape[1]
    if classes is not None and width != classes:
        raise ValueError(f"the network has {width} outputs for {classes} classes: build it with num_classes={classes}")
    if labels.device.type == "cpu" and len(labels):
        _check_labels(labels, width)


def _check_labels(labels: Tensor, width: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= width:
        raise ValueError(
            f"labels go from {low} to {high}, but the network has {width} outputs: expected labels 0 to {width - 1}"
        )
