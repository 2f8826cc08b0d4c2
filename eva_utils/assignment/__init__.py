"""The clauses of the course's assignment, checked on the network itself."""

from collections.abc import Sequence
from typing import Literal

import albumentations as A
from torch import nn

from eva_utils.assignment import layers
from eva_utils.assignment.clause import AssignmentCheck
from eva_utils.assignment.network import TracedNetwork
from eva_utils.assignment.policy import augmentations
from eva_utils.checks import real_number
from eva_utils.transforms import CIFAR10_MEAN

TIERS = {
    "standard": {"accuracy": 0.85, "parameters": 200_000, "field": 44, "separable": 1},
    "bonus": {"accuracy": 0.87, "parameters": 100_000, "field": 52, "separable": 2},
}


def check_assignment(
    model: nn.Module,
    accuracy: float | None = None,
    transform: A.Compose | None = None,
    tier: Literal["standard", "bonus"] = "standard",
    *,
    input_size: tuple[int, int, int] = (3, 32, 32),
    mean: Sequence[float] = CIFAR10_MEAN,
) -> AssignmentCheck:
    """Print and return, clause by clause, whether a network meets the course's assignment.

    ``accuracy`` is on the test images, 0 to 1; ``transform`` is the training policy; without them their clauses stay
    open. Layers are recognised by what they do to the image of ``input_size``, not by their names, and count
    only where the output depends on them. ``mean`` is the dataset's, which the hole is filled with. What a network
    computes with its numbers is not judged: a layer multiplied by 0, or a maximum written as sums and ReLUs, goes
    unseen. Raises ValueError for another tier, an accuracy that is no share or a policy of another library.
    """
    if tier not in TIERS:
        raise ValueError(f"tier={tier!r}: choose one of {', '.join(TIERS)}")
    if accuracy is not None:
        accuracy = real_number("accuracy", accuracy, least=0, most=1)
    if transform is not None and not isinstance(transform, A.BaseCompose):
        raise ValueError(f"transform is a {type(transform).__name__}: expected an albumentations.Compose")
    network = TracedNetwork(model, input_size)
    needs = TIERS[tier]
    clauses = [
        layers.accuracy_reached(accuracy, needs["accuracy"]),
        layers.parameters(model, network, needs["parameters"]),
        *layers.receptive_field(network, needs["field"]),
        layers.dilated(network),
        layers.separable(network, needs["separable"]),
        layers.no_max_pooling(network),
        layers.average_pooling(network),
        *([layers.no_linear_layer(network)] if tier == "bonus" else []),
        *augmentations(transform, mean, grey=tier == "bonus"),
    ]
    check = AssignmentCheck(tier, tuple(clauses))
    print(check)
    return check
