"""What all figures need."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


def image_grid(count: int, *, columns: int, inches: float = 1.6, lines: int = 2) -> tuple[Figure, list[plt.Axes]]:
    """Return a figure of ``count`` axes without ticks, filled row by row; large ones carry ``lines`` of text."""
    columns = min(columns, count)
    rows = -(-count // columns)
    height = inches + (0.24 * lines if inches > 1 else 0)
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


def show_pixels(ax: plt.Axes, image: np.ndarray) -> None:
    """Draw the image uint8 (H, W, 3) with sharp pixels, which also makes small files."""
    ax.imshow(image, interpolation="nearest")


def closed(figure: Figure) -> Figure:
    """Take the figure out of pyplot's list, so that a notebook shows it once: as the cell's result."""
    plt.close(figure)
    return figure
