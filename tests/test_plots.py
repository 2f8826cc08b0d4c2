import dataclasses
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from seaborn.utils import relative_luminance

from eva_utils.cifar10 import CIFAR10_CLASSES
from eva_utils.history import Evaluation, History
from eva_utils.plots.comparison import plot_accuracy_over_parameters, plot_steps
from eva_utils.plots.curves import (
    plot_calibration,
    plot_confusion,
    plot_histories,
    plot_history,
    plot_receptive_field,
)
from eva_utils.plots.images import plot_augmentations, plot_heat_maps, plot_mistakes, plot_samples
from eva_utils.predictions import Predictions
from eva_utils.receptive_field import LayerField
from eva_utils.transforms import course_policy


def layer(field):
    """A layer of 8x8 units, two pixels apart, the first one around pixel 8."""
    return LayerField("conv", "Conv2d", (8, 8), field, (2.0, 2.0), (8.0, 8.0), "")


STEPS = {"as it was": (0.80, 0.82, 0.81), "a long name of a step that is taken": (0.835, 0.825, 0.83), "last": (0.85,)}
NETWORKS = {
    "ours": {"small": (95_092, 0.89), "under a name": (116_500, 0.8895), "large": (197_244, 0.905)},
    "peers": {"as small": (97_530, 0.8905), "beside it": (98_180, 0.8895), "largest": (272_474, 0.895)},
}


@pytest.fixture(scope="module")
def history():
    history = History()
    for epoch in range(4):
        train, test = Evaluation(2 - 0.3 * epoch, 0.2 * epoch), Evaluation(1.9 - 0.2 * epoch, 0.15 * epoch)
        history.append(train, test, lr=0.1, seconds=1.0, images_per_second=100.0)
    return history


@pytest.fixture(scope="module")
def predictions(shapes):
    logits = torch.randn(len(shapes), 10, generator=torch.Generator().manual_seed(0))
    return Predictions(logits, torch.from_numpy(shapes.labels))


def widest_mistakes(shapes):
    """Figures of the longest titles: all images taken for automobiles for certain, a row of them and a single one."""
    images = dataclasses.replace(shapes, classes=CIFAR10_CLASSES)
    for wrong in (np.flatnonzero(shapes.labels != 1), [0]):
        some = images.subset(np.asarray(wrong))
        logits = 50 * torch.eye(10)[[1] * len(some)]
        sure = Predictions(logits, torch.from_numpy(some.labels))
        yield plot_mistakes(some, sure, count=10, title="dilated_separable_net on CIFAR-10, JPEG q75")


@pytest.fixture(params=["default", "dark_background"], scope="module")
def figures(request, history, predictions, shapes):
    with plt.style.context(request.param):
        yield [
            plot_history(history, title="a title"),
            plot_mistakes(shapes, predictions, title="a title"),
            *widest_mistakes(shapes),
            plot_samples(shapes, per_class=4),
            plot_augmentations(shapes, course_policy(), count=3, views=4),
            plot_histories({"batch": history, "layer": history}, title="a title"),
            plot_confusion(predictions, shapes.classes),
            plot_calibration(predictions),
            plot_receptive_field(np.eye(32), layer((71, 9))),
            plot_steps(STEPS, title="a title"),
            plot_accuracy_over_parameters(NETWORKS, title="a title"),
            plot_heat_maps(shapes, predictions, [3, 4], torch.rand(2, 32, 32), torch.rand(2, 32, 32)),
        ]


def texts(figure):
    found = [figure._suptitle] if figure._suptitle else []
    for axes in figure.axes:
        found += [axes.title, *(axes.texts if not axes.collections else [])]  # cells of a heat map have colours
        if axes.axison:
            found += [axes.xaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
    return [text for text in found if text.get_text()]


def test_nothing_is_clipped_and_no_titles_overlap(figures):
    for figure in figures:
        figure.draw_without_rendering()  # lays out
        width, height = figure.get_size_inches()
        drawn = figure.get_tightbbox()
        assert drawn.x0 >= 0
        assert drawn.y0 >= 0
        assert drawn.x1 <= width
        assert drawn.y1 <= height
        titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
        for i, box in enumerate(titles):
            assert not any(box.overlaps(other) for other in titles[:i])


def test_text_stands_out_from_the_ground(figures):
    for figure in figures:
        ground = np.mean(to_rgb(figure.get_facecolor()))
        assert texts(figure)
        for text in texts(figure):
            assert abs(np.mean(to_rgb(text.get_color())) - ground) > 0.5


def test_pyplot_keeps_no_figure(figures):
    assert plt.get_fignums() == []
    for figure in figures:  # and they can be saved all the same
        figure.savefig(target := io.BytesIO())
        assert target.tell() > 1000


def test_the_curves_are_the_history(history):
    loss_axes, acc_axes = plot_history(history).axes
    assert [list(line.get_ydata()) for line in loss_axes.lines] == [history.train_loss, history.test_loss]
    assert [list(line.get_ydata()) for line in acc_axes.lines] == [history.train_acc, history.test_acc]
    assert list(loss_axes.lines[0].get_xdata()) == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="no epochs yet"):
        plot_history(History())


def test_mistakes_come_worst_first_with_classes_and_probability(shapes, predictions):
    figure = plot_mistakes(shapes, predictions, count=6)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 6
    for axes, index in zip(shown, predictions.mistakes().tolist(), strict=False):
        pred = int(predictions.preds[index])
        expected = f"true: {shapes.classes[shapes.labels[index]]}\npred: {shapes.classes[pred]} "
        assert axes.get_title() == expected + f"{predictions.probs[index, pred]:.0%}"
        assert np.array_equal(axes.images[0].get_array(), shapes.images[index])


def test_mistakes_of_another_set_or_none_are_refused(shapes, predictions):
    with pytest.raises(ValueError, match=r"60 predictions of .* 10 images .*: predict the same images"):
        plot_mistakes(shapes.subset(np.arange(10)), predictions)
    wide = Predictions(torch.randn(60, 12), predictions.labels)
    with pytest.raises(ValueError, match=r"predictions of 12 classes, .*: build the network with num_classes=10"):
        plot_mistakes(shapes, wide)
    perfect = Predictions(torch.eye(10)[predictions.labels], predictions.labels)
    with pytest.raises(ValueError, match="no image is predicted wrong"):
        plot_mistakes(shapes, perfect)


def test_samples_stand_in_rows_of_their_classes(shapes):
    axes = plot_samples(shapes, per_class=3).axes
    assert [ax.texts[0].get_text() for ax in axes[::3]] == list(shapes.classes)
    for index, ax in enumerate(axes):
        rows = shapes.images[shapes.labels == index // 3]
        assert np.array_equal(ax.images[0].get_array(), rows[index % 3])


def test_augmentations_stand_beside_their_original(shapes):
    policy = course_policy(affine=1)
    generator = policy.random_generator
    axes = plot_augmentations(shapes, policy, count=2, views=3).axes
    assert len(axes) == 8
    assert np.array_equal(axes[0].images[0].get_array(), shapes.images[0])
    assert np.array_equal(axes[4].images[0].get_array(), shapes.images[-1])
    views = {ax.images[0].get_array().tobytes() for ax in axes[4:]}
    assert len(views) == 4
    assert policy.random_generator is generator


def test_several_histories_share_the_axes(history):
    loss_axes, acc_axes = plot_histories({"a": history, "b": history}).axes
    assert [line.get_label() for line in loss_axes.lines] == ["a, train", "a, test", "b, train", "b, test"]
    loss_axes, _ = plot_histories({"a": history}, tested="held back").axes
    assert [line.get_label() for line in loss_axes.lines] == ["a, train", "a, held back"]
    assert list(acc_axes.lines[3].get_ydata()) == history.test_acc
    with pytest.raises(ValueError, match="no history to draw"):
        plot_histories({"a": history, "b": History()})


def test_the_confusion_matrix_shows_counts_and_shares(predictions, shapes):
    figure = plot_confusion(predictions, shapes.classes)
    shown = sorted(text.get_text() for text in figure.axes[0].texts if text.get_text())
    counts = predictions.confusion()
    expected = [f"{n}\n{n / row.sum():.1%}" for row in counts for n in row if n]
    assert shown == sorted(expected)
    assert figure.axes[0].get_ylabel() == "true class"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(shapes.classes)
    with pytest.raises(ValueError, match="2 class names for 10 classes"):
        plot_confusion(predictions, ("a", "b"))


def test_the_numbers_of_a_confusion_matrix_can_be_read_on_any_colour(shapes):
    wrong = torch.full((60, 10), -9.0)
    for number, label in enumerate(shapes.labels.tolist()):
        wrong[number, 0 if number < 6 * label else label] = 9  # each class is taken for the first more often
    ax = plot_confusion(Predictions(wrong, torch.from_numpy(shapes.labels)), shapes.classes).axes[0]
    faces, cells = ax.collections[0].get_facecolors(), [text for text in ax.texts if text.get_weight() != "bold"]
    assert len({text.get_color() for text in cells if text.get_text()}) == 2
    for text in cells:
        column, row = (int(place) for place in text.get_position())
        light, dark = sorted(map(relative_luminance, (faces[10 * row + column], text.get_color())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.1


def test_a_receptive_field_is_a_square_around_the_centre():
    figure = plot_receptive_field(np.zeros((32, 32)), layer((9, 5)))  # around pixel 8 + 2 * 8 // 2 = 16
    (square,) = figure.axes[0].patches
    assert square.get_bbox().bounds == (13.5, 11.5, 5, 9)
    assert "beyond" not in figure.axes[0].get_title()
    assert "beyond the image" in plot_receptive_field(np.zeros((32, 32)), layer((101, 101))).axes[0].get_title()


def test_heat_maps_lie_over_their_images(shapes, predictions):
    true_maps, pred_maps = torch.rand(2, 32, 32), torch.rand(2, 32, 32)
    axes = plot_heat_maps(shapes, predictions, [7, 2], true_maps, pred_maps).axes
    assert len(axes) == 6
    assert np.array_equal(axes[3].images[0].get_array(), shapes.images[2])
    assert np.array_equal(axes[4].images[1].get_array(), true_maps[1].numpy())
    assert np.array_equal(axes[5].images[1].get_array(), pred_maps[1].numpy())
    with pytest.raises(ValueError, match="1 images, 2 and 2 maps"):
        plot_heat_maps(shapes, predictions, [7], true_maps, pred_maps)
    with pytest.raises(ValueError, match=r"60 predictions of .* 10 images .*: predict the same images"):
        plot_heat_maps(shapes.subset(np.arange(10)), predictions, [7, 2], true_maps, pred_maps)


def test_steps_show_their_seeds_their_mean_and_the_gain():
    figure = plot_steps(STEPS)
    (ax,) = figure.axes
    *dots, means = ax.lines
    assert [tuple(line.get_xdata()) for line in dots] == list(STEPS.values())
    assert means.get_xdata() == pytest.approx([0.81, 0.83, 0.85])
    assert [text.get_text() for text in ax.texts] == ["+2.0", "+2.0"]
    figure.draw_without_rendering()  # lays out
    bars = means.get_window_extent()
    assert ax.bbox.y0 <= bars.y0 < bars.y1 <= ax.bbox.y1
    assert ax.get_yticklabels()[0].get_text() == "as it was  (81.0%)"
    assert ax.yaxis_inverted()
    for nothing in ({}, {"empty": ()}):
        with pytest.raises(ValueError, match="give each the accuracies"):
            plot_steps(nothing)


def test_networks_stand_at_their_parameters_and_their_names_do_not_overlap():
    figure = plot_accuracy_over_parameters(NETWORKS)
    (ax,) = figure.axes
    for line, (group, networks) in zip(ax.lines, NETWORKS.items(), strict=True):
        assert line.get_label() == group
        assert list(zip(*line.get_data(), strict=True)) == list(networks.values())
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 6
    assert not any(a.overlaps(b) for number, a in enumerate(boxes) for b in boxes[:number])
    points = [ax.transData.transform(point) for networks in NETWORKS.values() for point in networks.values()]
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(ax.bbox.x0 <= box.x0 for box in boxes)
    for nothing in ({}, {"ours": {}}, NETWORKS | {"peers": {}}):
        with pytest.raises(ValueError, match="no network to draw, or none in a group"):
            plot_accuracy_over_parameters(nothing)
