"""The recipes that the networks of the series are trained by, and the parts of a training by one of them."""

from typing import Any

import torch
from torch import nn

from eva_utils.checks import real_number, whole_number
from eva_utils.images import ImageSet
from eva_utils.loaders import make_loader
from eva_utils.models import build_network
from eva_utils.models.blocks import start_at_identity
from eva_utils.optimizers import Muon, decay_groups, muon_groups, one_cycle
from eva_utils.runtime import seed_everything
from eva_utils.transforms import course_policy, crop_policy, eval_policy


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return the optimizer of notebook 04."""
    return torch.optim.SGD(decay_groups(model, 3e-4), lr=lr, momentum=0.95, nesterov=True)


def muon(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return the optimizer of notebook 05 and of our own networks."""
    groups = muon_groups(model, lr=lr, sgd_lr=4 * lr, weight_decay=0.01, sgd_weight_decay=5e-4)
    return Muon(groups, momentum=0.9)


# Whether the convolutions start at the identity, epochs, batch size, highest lr, share of warm-up, lr of the last step
# as a share of the highest, decay of the weights' average, optimizer and augmentation; those of the published networks
# are their notebooks'. Those of our own networks are by labels; the weights that the library has of these were taught,
# the residual nets' after their labels, the mirror nets' from the beginning, and `mirror_net`'s are a mean of weights:
# see experiments/lessons.md.
OWN = {
    "identity": True,
    "epochs": 120,
    "batch_size": 256,
    "lr": 0.05,
    "warmup": 0.1,
    "final": 0.1,
    "ema_decay": 0.998,
    "optimizer": muon,
    "policy": lambda: course_policy(affine=0.5, dropout=0.5, grey=0.05),
}
MIRROR = OWN | {
    "identity": False,
    "epochs": 32,
    "final": 0.05,
    "policy": lambda: course_policy(affine=0.5, dropout=0.3, grey=0.05),
}
RECIPES = {
    "dilated_net": {
        "identity": True,
        "epochs": 36,
        "batch_size": 128,
        "lr": 0.04,
        "warmup": 0.1,
        "final": 0.2,
        "ema_decay": 0.999,
        "optimizer": sgd,
        "policy": lambda: crop_policy(padding=4, dropout=0.1),
    },
    "dilated_separable_net": {
        "identity": True,
        "epochs": 150,
        "batch_size": 256,
        "lr": 0.05,
        "warmup": 0.1,
        "final": 0.1,
        "ema_decay": 0.999,
        "optimizer": muon,
        "policy": lambda: crop_policy(padding=4, dropout=0.5),
    },
    "small_residual_net": OWN,
    "residual_net": OWN | {"epochs": 90, "final": 0.05},
    "small_mirror_net": MIRROR,
    "mirror_net": MIRROR,
    "small_gated_mirror_net": MIRROR,
}


def prepare(
    network: str,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    seed: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    recipe: dict[str, Any] | None = None,
    **loading: Any,
) -> dict[str, Any]:
    """Return the arguments of :func:`fit` for a new network and a recipe, the network's in :data:`RECIPES` by default.

    ``epochs``, ``batch_size`` and ``lr`` are the recipe's where None; ``loading`` goes to :func:`make_loader`.
    Global generators are seeded. Raises ValueError for an unknown network and for epochs, a batch size or an lr of 0.
    """
    seed_everything(seed)
    model = build_network(network, num_classes=len(train_set.classes))
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    recipe = (recipe or RECIPES[network]) | {name: value for name, value in given.items() if value is not None}
    epochs, batch_size = (whole_number(name, recipe[name], least=1) for name in ("epochs", "batch_size"))
    if real_number("lr", recipe["lr"], least=0) == 0:
        raise ValueError("lr=0: expected more than 0, or None for the recipe's")
    if recipe["identity"]:
        start_at_identity(model)
    train_loader = make_loader(train_set, recipe["policy"](), batch_size=batch_size, shuffle=True, seed=seed, **loading)
    optimizer = recipe["optimizer"](model, recipe["lr"])
    return {
        "model": model,
        "train_loader": train_loader,
        "test_loader": make_loader(test_set, eval_policy(), batch_size=500, **loading),
        "epochs": epochs,
        "ema_decay": recipe["ema_decay"],
        "optimizer": optimizer,
        "scheduler": one_cycle(optimizer, epochs * len(train_loader), warmup=recipe["warmup"], final=recipe["final"]),
    }
