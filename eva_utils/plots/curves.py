"""Figures of numbers: training curves, confusion, calibration, receptive fields."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from eva_utils.history import History, LrRange
from eva_utils.plots.figures import closed
from eva_utils.predictions import Predictions
from eva_utils.receptive_field import LayerField


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
        axes.legend()
    _over_epochs(loss_axes, acc_axes)
    acc_axes.set_title(f"accuracy (last test: {history.test_acc[-1]:.2%})")
    figure.suptitle(title)
    return closed(figure)


def plot_histories(histories: Mapping[str, History], *, title: str = "", tested: str = "test") -> Figure:
    """Draw the loss and the accuracy of several trainings, a colour each: training dashed, test solid.

    ``histories`` maps a name to each; ``tested`` is what the solid lines are called, such as "held back". Raises
    ValueError if there is none or one has no epochs.
    """
    if not histories or not all(map(len, histories.values())):
        raise ValueError("there is no history to draw, or one has no epochs yet")
    figure, (loss_axes, acc_axes) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for number, (name, history) in enumerate(histories.items()):
        epochs = np.arange(1, len(history) + 1)
        lines = ((history.train_loss, history.test_loss), (history.train_acc, history.test_acc))
        for ax, (train, test) in zip((loss_axes, acc_axes), lines, strict=True):
            marker = "o" if len(history) == 1 else None
            ax.plot(epochs, train, "--", marker=marker, color=f"C{number}", alpha=0.7, label=f"{name}, train")
            ax.plot(epochs, test, marker=marker, color=f"C{number}", label=f"{name}, {tested}")
    _over_epochs(loss_axes, acc_axes)
    loss_axes.legend()
    figure.suptitle(title)
    return closed(figure)


def _over_epochs(loss_axes: Axes, acc_axes: Axes) -> None:
    """Give both axes their titles, whole epochs, percents and a grid."""
    for ax, what in ((loss_axes, "loss (cross entropy)"), (acc_axes, "accuracy")):
        ax.set(title=what, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    acc_axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def plot_lr_range(result: LrRange, *, title: str = "") -> Figure:
    """Draw the smoothed training loss over the learning rate, and mark the suggestion."""
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    ax.plot(result.lrs, result.losses)
    ax.axvline(result.lowest, linestyle=":", color="C7", label=f"lowest loss: {result.lowest:.2g}")
    ax.axvline(result.suggestion, linestyle="--", color="C1", label=f"suggestion: {result.suggestion:.2g}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed", title=title)
    ax.set_ylim(top=min(max(result.losses), 2 * result.losses[0]))  # else the explosion at the end is all one sees
    ax.grid(alpha=0.3)
    ax.legend()
    return closed(figure)


def plot_confusion(predictions: Predictions, classes: tuple[str, ...]) -> Figure:
    """Draw the confusion matrix: in each cell the number of images and their share of the true class.

    Rows are true classes, columns predicted ones. The colour shows the share, and leaves out the diagonal, so that
    the mistakes stand out. Raises ValueError for another number of class names.
    """
    import seaborn as sns  # takes a second to import, and nothing else needs it

    counts = predictions.confusion().numpy()
    if len(classes) != len(counts):
        raise ValueError(f"{len(classes)} class names for {len(counts)} classes")
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    labels = [
        [f"{count}\n{share:.1%}" if count else "" for count, share in zip(*row, strict=True)]
        for row in zip(counts, shares, strict=True)
    ]
    mistakes = np.where(np.eye(len(counts), dtype=bool), np.nan, shares)
    figure, ax = plt.subplots(figsize=(9, 7.5), layout="constrained")
    sns.heatmap(
        shares,
        annot=labels,
        fmt="",
        annot_kws={"fontsize": 9},
        mask=np.isnan(mistakes),
        cmap="rocket_r",
        vmin=0,
        vmax=max(np.nanmax(mistakes), 0.01),
        square=True,
        linewidths=0.5,
        xticklabels=classes,
        yticklabels=classes,
        cbar_kws={"label": "share of the true class", "shrink": 0.8, "format": PercentFormatter(xmax=1)},
        ax=ax,
    )
    faces = ax.collections[0].get_facecolors()
    for text in ax.texts:  # seaborn's choice is white on half dark cells
        column, row = map(int, text.get_position())
        light = sns.utils.relative_luminance(faces[row * len(counts) + column]) > 0.18
        text.set_color("black" if light else "white")
    for number, texts in enumerate(labels):
        ax.text(number + 0.5, number + 0.5, texts[number], ha="center", va="center", fontsize=9, weight="bold")
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.tick_params(axis="x", labelrotation=45)
    ax.tick_params(axis="y", labelrotation=0)
    return closed(figure)


def plot_calibration(predictions: Predictions, *, bins: int = 15) -> Figure:
    """Draw how often predictions of each confidence are right, and how many there are.

    A calibrated network lies on the diagonal. The title gives the expected calibration error.
    """
    result = predictions.calibration(bins)
    filled = result.counts > 0
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(5.5, 6), height_ratios=[3, 1], sharex=True, layout="constrained"
    )
    top.plot([0, 1], [0, 1], "--", color="grey", label="calibrated")
    top.plot(result.confidence[filled], result.accuracy[filled], "o-", label="network")
    top.set(ylabel="share that is right", ylim=(0, 1), title=f"expected calibration error {result.error:.2%}")
    top.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    top.legend()
    edges = np.linspace(0, 1, bins + 1)
    bottom.bar(edges[:-1], result.counts, width=1 / bins, align="edge", edgecolor="white")
    bottom.set(xlabel="confidence: probability of the predicted class", ylabel="images", xlim=(0, 1))
    bottom.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    for ax in (top, bottom):
        ax.grid(alpha=0.3)
    return closed(figure)


def plot_receptive_field(picture: np.ndarray, layer: LayerField, *, ax: Axes | None = None) -> Figure:
    """Show the effective receptive field (H, W) of a layer's middle unit and the square of the theoretical one.

    ``layer`` is the layer's row for an image of that size. Where the square goes beyond the image, only the image is
    shown, and the title says so.
    """
    figure = ax.figure if ax else plt.figure(figsize=(4, 4), layout="constrained")
    ax = ax or figure.subplots()
    height, width = picture.shape
    ax.imshow(picture**0.5, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
    field, centre = layer.receptive_field, layer.centre
    corner = (centre[1] - field[1] / 2, centre[0] - field[0] / 2)  # a pixel reaches half a pixel to each side
    ax.add_patch(Rectangle(corner, field[1], field[0], fill=False, edgecolor="cyan", linewidth=1.5))
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    outside = corner[0] < -0.5 or corner[1] < -0.5 or corner[0] + field[1] > width or corner[1] + field[0] > height
    beyond = " (beyond the image)" if outside else ""
    ax.set_title(f"theory {field[0]}x{field[1]}{beyond}", fontsize=10)
    return closed(figure)
