"""Figures from results. Each function returns its figure and neither shows nor saves it.

A notebook shows the figure that a cell ends with; ``figure.savefig(path)`` keeps it. Colours of text and axes are
those of the style in use, so that dark themes work.
"""

from eva_utils.plots.comparison import plot_accuracy_over_parameters, plot_steps
from eva_utils.plots.curves import (
    plot_calibration,
    plot_confusion,
    plot_histories,
    plot_history,
    plot_lr_range,
    plot_receptive_field,
)
from eva_utils.plots.images import plot_augmentations, plot_heat_maps, plot_mistakes, plot_samples

__all__ = [
    "plot_accuracy_over_parameters",
    "plot_augmentations",
    "plot_calibration",
    "plot_confusion",
    "plot_heat_maps",
    "plot_histories",
    "plot_history",
    "plot_lr_range",
    "plot_mistakes",
    "plot_receptive_field",
    "plot_samples",
    "plot_steps",
]
