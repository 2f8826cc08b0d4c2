"""The networks of the series, by name."""

from collections.abc import Callable
from importlib import resources
from typing import Any

import torch
from torch import nn

from eva_utils.checks import whole_number
from eva_utils.models.dilated_net import DilatedNet
from eva_utils.models.dilated_separable_net import DilatedSeparableNet
from eva_utils.models.gated_mirror_net import small_gated_mirror_net
from eva_utils.models.mirror_net import mirror_net, small_mirror_net
from eva_utils.models.residual_net import residual_net, small_residual_net

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "dilated_net": DilatedNet,
    "dilated_separable_net": DilatedSeparableNet,
    "small_residual_net": small_residual_net,
    "residual_net": residual_net,
    "small_mirror_net": small_mirror_net,
    "mirror_net": mirror_net,
    "small_gated_mirror_net": small_gated_mirror_net,
}


def build_network(name: str, *, num_classes: int = 10, **options: Any) -> nn.Module:
    """Return a new, untrained network of :data:`NETWORKS`, or raise ValueError naming the choices.

    ``options`` are what that network takes besides, such as the ``norm`` of "dilated_net".
    """
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}: choose one of {', '.join(NETWORKS)}")
    num_classes = whole_number("num_classes", num_classes, least=1)
    return NETWORKS[name](num_classes=num_classes, **options)


def load_pretrained(name: str) -> nn.Module:
    """Return a network of :data:`NETWORKS` in eval mode, on the CPU, with its shipped weights.

    ``results/<name>.json`` is the record of the run that trained them, or, for a network of our own,
    ``experiments/records/<name>_0_test.json``, whose "start", if any, names the weights that it went on from.
    Raises ValueError for an unknown name and FileNotFoundError for a network that has not been trained yet.
    """
    model = build_network(name)
    with resources.as_file(resources.files("eva_utils") / "weights" / f"{name}.pt") as path:
        if not path.is_file():
            way = f"python -m eva_utils train --network {name}"
            raise FileNotFoundError(f"no weights of {name!r} are shipped yet; to train it: {way}")
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()
