"""Figures that compare networks: what each step towards one brought, and accuracy over parameters."""

import itertools
import statistics
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, PercentFormatter
from matplotlib.transforms import Bbox

from eva_utils.plots.figures import closed


def plot_steps(steps: Mapping[str, Sequence[float]], *, title: str = "") -> Figure:
    """Draw the accuracies of each step, a dot a seed and a bar at their mean, and the gain over the step above.

    ``steps`` maps each step's name, in the order they were taken, to its accuracies (0 to 1). Raises ValueError if
    there is no step, or one without an accuracy.
    """
    if not steps or not all(map(len, steps.values())):
        raise ValueError("there is no step to draw, or one has no accuracy: give each the accuracies of its seeds")
    figure, ax = plt.subplots(figsize=(9, 1.2 + 0.45 * len(steps)), layout="constrained")
    means = [statistics.mean(accuracies) for accuracies in steps.values()]
    for row, accuracies in enumerate(steps.values()):
        ax.plot(accuracies, [row] * len(accuracies), "o", color="C0", alpha=0.5)
    ax.plot(means, range(len(means)), "|", color="C1", markersize=18, markeredgewidth=2.5)
    names = [f"{name}  ({mean:.1%})" for name, mean in zip(steps, means, strict=True)]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(means) - 0.5, -0.5)  # the first on top, half a row beyond the outer ones
    for row in range(1, len(means)):
        gain = 100 * (means[row] - means[row - 1])
        ax.annotate(f"{gain:+.1f}", (1.01, row), xycoords=("axes fraction", "data"), va="center")
    ax.set(xlabel="accuracy: a dot a seed, the bar their mean; on the right the gain in points", title=title)
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    ax.grid(alpha=0.3)
    return closed(figure)


def plot_accuracy_over_parameters(groups: Mapping[str, Mapping[str, tuple[int, float]]], *, title: str = "") -> Figure:
    """Draw each network's accuracy over its number of parameters, named beside its point, a colour a group.

    ``groups`` maps a group's name to networks, each a name with parameters and accuracy (0 to 1). Raises ValueError
    if there is no group, or one without a network.
    """
    if not groups or not all(map(len, groups.values())):
        raise ValueError("there is no network to draw, or none in a group: leave empty groups out")
    figure, ax = plt.subplots(figsize=(9, 7), layout="constrained")
    labels = []
    for number, (group, networks) in enumerate(groups.items()):
        ax.plot(*zip(*networks.values(), strict=True), "o^sD"[number % 4], color=f"C{number}", label=group)
        for name, point in networks.items():
            labels.append(ax.annotate(name, point, (8, 0), textcoords="offset points", va="center", fontsize="small"))
    ax.set(xlabel="parameters", ylabel="accuracy", title=title)
    ax.margins(x=0.35, y=0.1)  # room for the names
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    ax.grid(alpha=0.3)
    ax.legend(loc="best")
    _part(figure, labels)
    return closed(figure)


def _part(figure: Figure, labels: list[Annotation]) -> None:
    """Put each label, from the lowest up, right of its point, a little higher or left of it, covering nothing."""
    figure.draw_without_rendering()
    ax = labels[0].axes
    taken = [Bbox.from_bounds(*ax.transData.transform(label.xy), 0, 0).padded(4 * figure.dpi / 72) for label in labels]
    for label in sorted(labels, key=lambda label: label.xy[1]):
        for x, y in ((x, y) for step in itertools.count(0, 2) for x, y in ((8, step), (-8, step - 4)) if y >= 0):
            label.set(position=(x, y), horizontalalignment="left" if x > 0 else "right")
            box = label.get_window_extent().padded(1.5 * figure.dpi / 72)
            if box.x0 >= ax.bbox.x0 and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
