"""Figures from results. Each function returns its figure and neither shows nor saves it.

A notebook shows the figure that a cell ends with; ``figure.savefig(path)`` keeps it. Colours of text and axes are
those of the style in use, so that dark themes work.
"""

import copy

import albumentations as A
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from eva_utils.history import History
from eva_utils.images import ImageSet
from eva_utils.loaders import augment
from eva_utils.predictions import Predictions
from eva_utils.transforms import CIFAR10_MEAN, CIFAR10_STD, denormalize


def plot_history(history: History, *, title: str = "") -> Figure:
    """Draw the loss and the accuracy of training and test images over the epochs.

    Raises ValueError for a history without epochs.
    """
    if len(history) == 0:
        raise ValueError("the history has no epochs yet: train for at least one")
    figure, (loss_axes, acc_axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs = np.arange(1, len(history) + 1)
    marker = "o" if len(history) == 1 else None
    for axes, train, test in (
        (loss_axes, history.train_loss, history.test_loss),
        (acc_axes, history.train_acc, history.test_acc),
    ):
        axes.plot(epochs, train, marker=marker, label="train (augmented)")
        axes.plot(epochs, test, marker=marker, label="test")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    loss_axes.set_title("loss (cross entropy)")
    acc_axes.set_title(f"accuracy (last test: {history.test_acc[-1]:.2%})")
    acc_axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    figure.suptitle(title)
    return _close(figure)


def plot_mistakes(image_set: ImageSet, predictions: Predictions, *, count: int = 25, title: str = "") -> Figure:
    """Show the ``count`` images that are predicted wrong with the highest loss, the worst first.

    Above each stand its true class, and the predicted one with its probability. Raises ValueError if the predictions
    are of another number of images or classes, or none is wrong.
    """
    if len(predictions) != len(image_set):
        raise ValueError(f"{len(predictions)} predictions of {image_set}: predict the same images, unshuffled")
    if predictions.logits.shape[1] != len(image_set.classes):
        raise ValueError(
            f"predictions of {predictions.logits.shape[1]} classes, but {image_set}: build the network with "
            f"num_classes={len(image_set.classes)}"
        )
    indices = predictions.mistakes()[:count].tolist()
    if not indices:
        raise ValueError("no image is predicted wrong: there is nothing to show")
    figure, axes = _image_grid(len(indices), columns=5)
    for ax, index in zip(axes, indices, strict=False):
        pred = int(predictions.preds[index])
        _show_pixels(ax, image_set.images[index])
        ax.set_title(
            f"true: {image_set.classes[image_set.labels[index]]}\n"
            f"pred: {image_set.classes[pred]} {predictions.probs[index, pred]:.0%}",
            fontsize=10,
        )
    figure.suptitle(title)
    return _close(figure)


def plot_samples(image_set: ImageSet, *, per_class: int = 10) -> Figure:
    """Show the first images of each class, a row a class."""
    rows = [np.flatnonzero(image_set.labels == label) for label in range(len(image_set.classes))]
    per_class = min(per_class, *(len(row) for row in rows))
    if per_class < 1:
        raise ValueError(f"a class of {image_set} has no images: nothing to show for it")
    indices = np.concatenate([row[:per_class] for row in rows])
    figure, axes = _image_grid(len(indices), columns=per_class, inches=0.8)
    for ax, index in zip(axes, indices, strict=True):
        _show_pixels(ax, image_set.images[index])
    for ax, name in zip(axes[::per_class], image_set.classes, strict=True):
        ax.text(-0.1, 0.5, name, ha="right", va="center", transform=ax.transAxes)
    return _close(figure)


def plot_augmentations(
    image_set: ImageSet,
    transform: A.Compose,
    *,
    count: int = 6,
    views: int = 7,
    seed: int = 0,
    mean: tuple[float, ...] = CIFAR10_MEAN,
    std: tuple[float, ...] = CIFAR10_STD,
) -> Figure:
    """Show ``count`` images from all over the set, each beside ``views`` augmented versions of it.

    The versions are those of the first epochs of a training with this ``seed``. ``mean`` and ``std`` are what the
    transform normalises with.
    """
    count = min(count, len(image_set))
    transform = copy.deepcopy(transform)
    figure, axes = _image_grid(count * (views + 1), columns=views + 1, inches=1.0)
    indices = np.linspace(0, len(image_set) - 1, count).astype(int).tolist()
    for index, row in zip(indices, np.reshape(axes, (count, views + 1)), strict=True):
        _show_pixels(row[0], image_set.images[index])
        for epoch, ax in enumerate(row[1:]):
            image = augment(image_set.images[index], transform, key=(seed, epoch, index))
            _show_pixels(ax, denormalize(image, mean=mean, std=std))
    axes[0].set_title("original", fontsize=10)
    axes[1].set_title("augmented", fontsize=10)
    return _close(figure)


def _image_grid(count: int, *, columns: int, inches: float = 1.6) -> tuple[Figure, list[plt.Axes]]:
    """Return a figure of ``count`` axes without ticks, filled row by row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    height = inches * (1.3 if inches > 1 else 1.0)  # large cells carry two lines of text
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * inches, rows * height),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, list(axes.flat)


def _show_pixels(ax: plt.Axes, image: np.ndarray) -> None:
    """Draw the image uint8 (H, W, 3) with sharp pixels, which also makes small files."""
    ax.imshow(image, interpolation="nearest")


def _close(figure: Figure) -> Figure:
    """Take the figure out of pyplot's list, so that a notebook shows it once: as the cell's result."""
    plt.close(figure)
    return figure
