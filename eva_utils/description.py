"""What makes a training another training, in words: a checkpoint goes on with the same alone."""

import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eva_utils.loaders import DeviceLoader, EpochSampler

MOVING = {"last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step", "T_cur", "T_i"}
PARTS = "_schedulers"  # where SequentialLR and ChainedScheduler keep those that they are made of


def describe(
    model: nn.Module,
    train_loader: DataLoader | DeviceLoader,
    test_loader: DataLoader | DeviceLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batch_transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    seed: int,
) -> dict[str, str]:
    """Return the parts of a training in words that are equal in another process, and for parts in use.

    ``seed`` is the global generator's. Functions go by their names, and samples of other datasets than an ImageSet or
    a TensorDataset by their number.
    """
    return {
        "network": _network(model),
        "images": _images(train_loader),
        "test images": _images(test_loader),
        "policy": _policy(train_loader),
        "test policy": _policy(test_loader),
        "batch size": str(train_loader.batch_size),
        "order": _order(train_loader),
        "seed": f"{getattr(train_loader.sampler, 'seed', None)}, of the weights {seed}",
        "loss": _function(loss_fn),
        "batch transform": "None" if batch_transform is None else _function(batch_transform),
        "optimizer": f"{type(optimizer).__name__} {constants_of(optimizer.param_groups)}",
        "schedule": "None" if scheduler is None else _schedule(scheduler),
    }


def constants_of(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the settings in an optimizer's parameter groups but those that a schedule changes."""
    return [_constants(group) for group in groups]


def _function(function: Callable[..., Any]) -> str:
    """Return the name of a function, or the text of an object that is called like one, with its settings."""
    own = {name: value for name, value in getattr(function, "__dict__", {}).items() if not name.startswith("_")}
    if isinstance(function, nn.Module):
        state = function.state_dict()
        own |= {name: value.tolist() if torch.is_tensor(value) else value for name, value in state.items()}
    return getattr(function, "__name__", None) or f"{_words(function)} {_plain(own)}"


def _network(model: nn.Module) -> str:
    """Return class and size, and a checksum of the layers, which tells others of that class and size apart."""
    layers = zlib.crc32(f"{_words(model)} {[p.requires_grad for p in model.parameters()]}".encode())
    start = ", started at the identity" if getattr(model, "started_at_identity", False) else ""
    size = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__}, {size:,} parameters, layers {layers:08x}{start}"


def _images(loader: DataLoader | DeviceLoader) -> str:
    image_set = getattr(loader.dataset, "image_set", None)
    if image_set is not None:
        return f"{image_set!r}, checksum {image_set.checksum}"
    if isinstance(loader.dataset, TensorDataset):
        checksum = 0
        for tensor in loader.dataset.tensors:
            checksum = zlib.crc32(np.ascontiguousarray(tensor.detach().cpu().numpy()), checksum)
        return f"{len(loader.dataset):,} images, checksum {checksum:08x}"
    return f"{len(loader.dataset):,} images"


def _policy(loader: DataLoader | DeviceLoader) -> str:
    return _words(getattr(loader.dataset, "transform", "")) + ", in batches" * isinstance(loader, DeviceLoader)


def _order(loader: DataLoader | DeviceLoader) -> str:
    sampler = loader.sampler
    shuffled = f", shuffle={sampler.shuffle}" if isinstance(sampler, EpochSampler) else ""
    return f"{type(sampler).__name__}{shuffled}, drop_last={getattr(loader, 'drop_last', False)}"


def _schedule(scheduler: torch.optim.lr_scheduler.LRScheduler) -> str:
    fixed = {name: value for name, value in scheduler.state_dict().items() if name not in MOVING | {PARTS}}
    parts = "".join(f", {_schedule(part)}" for part in getattr(scheduler, PARTS, ()))
    return f"{type(scheduler).__name__} {_plain(fixed)}{parts}"


def _constants(group: dict[str, Any]) -> dict[str, Any]:
    moving = {"params"}
    if "initial_lr" in group:  # every schedule of torch notes it
        moving |= {"lr"}
    if "max_momentum" in group:  # OneCycleLR and CyclicLR
        moving |= {"momentum", "betas"}
    return {name: value for name, value in group.items() if name not in moving}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return what of the values is written in words that are equal in another process."""
    kinds = (bool, int, float, str, list, tuple, dict, type(None))
    return {name: value for name, value in values.items() if isinstance(value, kinds) and " at 0x" not in str(value)}


def _words(thing: object) -> str:
    """Return the text of an object in one line, without addresses."""
    return re.sub(r"\s+", " ", re.sub(r" at 0x[0-9a-fA-F]+", "", str(thing)))
