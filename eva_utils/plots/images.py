"""Figures that show images: samples, augmentations, mistakes and heat maps."""

import copy
from collections.abc import Sequence

import albumentations as A
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from eva_utils.checks import whole_number
from eva_utils.images import ImageSet
from eva_utils.loaders import augment
from eva_utils.plots.figures import closed, image_grid, show_pixels
from eva_utils.predictions import Predictions, check_same_images
from eva_utils.transforms import CIFAR10_MEAN, CIFAR10_STD, denormalize


def plot_mistakes(image_set: ImageSet, predictions: Predictions, *, count: int = 25, title: str = "") -> Figure:
    """Show the ``count`` images that are predicted wrong with the highest loss, the worst first.

    Above each stand its true class, and the predicted one with its probability. Raises ValueError if the predictions
    are of another number of images or classes, or none is wrong.
    """
    count = whole_number("count", count, least=1)
    check_same_images(image_set, predictions)
    indices = predictions.mistakes()[:count].tolist()
    if not indices:
        raise ValueError("no image is predicted wrong: there is nothing to show")
    figure, axes = image_grid(max(len(indices), 3), columns=5, inches=1.8)  # wide enough for names and title
    for ax, index in zip(axes, indices, strict=False):
        pred = int(predictions.preds[index])
        show_pixels(ax, image_set.images[index])
        ax.set_title(
            f"true: {image_set.classes[image_set.labels[index]]}\n"
            f"pred: {image_set.classes[pred]} {predictions.probs[index, pred]:.0%}",
            fontsize=10,
        )
    figure.suptitle(title)
    return closed(figure)


def plot_samples(image_set: ImageSet, *, per_class: int = 10) -> Figure:
    """Show the first images of each class, a row a class. Raises ValueError for a class without images."""
    per_class = whole_number("per_class", per_class, least=1)
    rows = [np.flatnonzero(image_set.labels == label) for label in range(len(image_set.classes))]
    per_class = min(per_class, *(len(row) for row in rows))
    if per_class < 1:
        raise ValueError(f"a class of {image_set} has no images: nothing to show for it")
    indices = np.concatenate([row[:per_class] for row in rows])
    figure, axes = image_grid(len(indices), columns=per_class, inches=0.8)
    for ax, index in zip(axes, indices, strict=True):
        show_pixels(ax, image_set.images[index])
    for ax, name in zip(axes[::per_class], image_set.classes, strict=True):
        ax.text(-0.1, 0.5, name, ha="right", va="center", transform=ax.transAxes)
    return closed(figure)


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
    count = min(whole_number("count", count, least=1), len(image_set))
    views = whole_number("views", views, least=1)
    transform = copy.deepcopy(transform)
    figure, axes = image_grid(count * (views + 1), columns=views + 1, inches=1.0)
    indices = np.linspace(0, len(image_set) - 1, count).astype(int).tolist()
    for index, row in zip(indices, np.reshape(axes, (count, views + 1)), strict=True):
        show_pixels(row[0], image_set.images[index])
        for epoch, ax in enumerate(row[1:]):
            image = augment(image_set.images[index], transform, key=(seed, epoch, index))
            show_pixels(ax, denormalize(image, mean=mean, std=std))
    axes[0].set_title("original", fontsize=10)
    axes[1].set_title("augmented", fontsize=10)
    return closed(figure)


def plot_heat_maps(
    image_set: ImageSet, predictions: Predictions, indices: Sequence[int], true_maps: Tensor, pred_maps: Tensor
) -> Figure:
    """Show images, a row each, beside the heat maps of their true and of their predicted class.

    ``indices`` are those of N images in the set, the maps (N, H, W), 0 to 1, of the same images, such as
    :func:`grad_cam` gives. Raises ValueError where the numbers differ, and for predictions of other images.
    """
    check_same_images(image_set, predictions)
    if not len(indices) == len(true_maps) == len(pred_maps) or not len(indices):
        raise ValueError(
            f"{len(indices)} images, {len(true_maps)} and {len(pred_maps)} maps: expected the same number, at least 1"
        )
    figure, axes = image_grid(3 * len(indices), columns=3, inches=2.0, lines=1)
    for row, index in enumerate(indices):
        image, label, pred = image_set.images[index], image_set.labels[index], int(predictions.preds[index])
        names = [image_set.classes[kind] for kind in (label, pred)]
        probs = [predictions.probs[index, kind] for kind in (label, pred)]
        cells = axes[3 * row : 3 * row + 3]
        for ax in cells:
            show_pixels(ax, image)
        cells[0].set_title(f"image {index}", fontsize=10)
        for ax, heat, what, name, prob in zip(
            cells[1:], (true_maps[row], pred_maps[row]), ("true", "pred"), names, probs, strict=True
        ):
            ax.imshow(heat.cpu().numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=1, interpolation="nearest")
            ax.set_title(f"{what}: {name} {prob:.0%}", fontsize=10)
    return closed(figure)
