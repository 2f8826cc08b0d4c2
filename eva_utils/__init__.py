"""A thin library for the notebook series: images, policies, networks, training, figures."""

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # at its import, albumentations would ask the network for news

from eva_utils.assignment import AssignmentCheck, check_assignment
from eva_utils.checkpoint import load_checkpoint, on_drive, save_checkpoint
from eva_utils.cifar10 import CIFAR10_CLASSES
from eva_utils.distillation import Distillation
from eva_utils.grad_cam import grad_cam
from eva_utils.history import Evaluation, History, LrRange
from eva_utils.images import (
    ImageSet,
    cache_folder,
    hold_out,
    load_images,
)
from eva_utils.loaders import EpochSampler, augment, make_loader
from eva_utils.lr_range import find_lr
from eva_utils.measured_field import effective_receptive_field, measure_receptive_field
from eva_utils.mirrored import Mirrored
from eva_utils.models import NETWORKS, build_network, load_pretrained
from eva_utils.models.blocks import (
    conv,
    conv_norm_relu,
    conv_relu_norm,
    depthwise_separable_conv,
    residual_convs,
    residual_separable,
    separable_norm_relu,
    separable_relu_norm,
    start_at_identity,
)
from eva_utils.models.gated_mirror_net import GatedMirror
from eva_utils.models.mirror_net import MirrorNet, mirror_convs, mirror_norm_relu, mirror_separable
from eva_utils.optimizers import Muon, decay_groups, muon_groups, one_cycle
from eva_utils.predictions import Calibration, Predictions, predict
from eva_utils.receptive_field import ReceptiveField, receptive_field
from eva_utils.records import save_run
from eva_utils.runtime import (
    best_device,
    best_precision,
    describe_device,
    run_mode,
    seed_everything,
)
from eva_utils.shapes import SHAPE_CLASSES, draw_shapes
from eva_utils.summary import summary
from eva_utils.training import evaluate, fit
from eva_utils.transforms import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    course_policy,
    crop_policy,
    denormalize,
    eval_policy,
)

if TYPE_CHECKING:
    from eva_utils.plots import (
        plot_accuracy_over_parameters,
        plot_augmentations,
        plot_calibration,
        plot_confusion,
        plot_heat_maps,
        plot_histories,
        plot_history,
        plot_lr_range,
        plot_mistakes,
        plot_receptive_field,
        plot_samples,
        plot_steps,
    )

__version__ = "0.1.0"

__all__ = [
    "CIFAR10_CLASSES",
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "NETWORKS",
    "SHAPE_CLASSES",
    "AssignmentCheck",
    "Calibration",
    "Distillation",
    "EpochSampler",
    "Evaluation",
    "GatedMirror",
    "History",
    "ImageSet",
    "LrRange",
    "MirrorNet",
    "Mirrored",
    "Muon",
    "Predictions",
    "ReceptiveField",
    "augment",
    "best_device",
    "best_precision",
    "build_network",
    "cache_folder",
    "check_assignment",
    "conv",
    "conv_norm_relu",
    "conv_relu_norm",
    "course_policy",
    "crop_policy",
    "decay_groups",
    "denormalize",
    "depthwise_separable_conv",
    "describe_device",
    "draw_shapes",
    "effective_receptive_field",
    "eval_policy",
    "evaluate",
    "find_lr",
    "fit",
    "grad_cam",
    "hold_out",
    "load_checkpoint",
    "load_images",
    "load_pretrained",
    "make_loader",
    "measure_receptive_field",
    "mirror_convs",
    "mirror_norm_relu",
    "mirror_separable",
    "muon_groups",
    "on_drive",
    "one_cycle",
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
    "predict",
    "receptive_field",
    "residual_convs",
    "residual_separable",
    "run_mode",
    "save_checkpoint",
    "save_run",
    "seed_everything",
    "separable_norm_relu",
    "separable_relu_norm",
    "start_at_identity",
    "summary",
]


def __getattr__(name: str) -> Any:
    """Load the figures when one is first asked for: matplotlib would take most of the time of the import."""
    if name in __all__:  # and not here yet
        from eva_utils import plots

        return getattr(plots, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
