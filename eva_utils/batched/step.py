"""What each transform of a policy becomes: how its parameters are drawn, and what they do to a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Size = tuple[int, int]  # height and width in pixels
Parameters = dict[str, np.ndarray]  # by albumentations' names, one row a sample


class NotBatchedError(ValueError):
    """A transform that cannot be run on whole batches."""

    def __init__(self, transform: Any, reason: str) -> None:
        super().__init__(
            f"{type(transform).__name__} cannot be run on whole batches: {reason}. "
            "Take the ordinary loader: make_loader(..., fast=False)"
        )


def draw_nothing(_: np.random.Generator, __: int) -> Parameters:
    """Draw no parameters: the transform does the same to each image."""
    return {}


@dataclass(frozen=True)
class Step:
    """A transform of a policy, for whole batches.

    ``apply(images, **parameters)`` maps images (B, C, H, W), uint8 or float32, to such images, ``size`` high and
    wide. ``draw(generator, count)`` gives the parameters of ``count`` samples. A step that is not ``optional``
    changes size or type, so that all images of a batch have to take it.
    """

    apply: Callable[..., Tensor]
    size: Size
    draw: Callable[[np.random.Generator, int], Parameters] = draw_nothing
    optional: bool = True


def filled(images: Tensor, fill: Any) -> Tensor:
    """Return ``fill``, a number or one a channel, as a tensor (C, 1, 1) of the images' type."""
    values = torch.as_tensor(fill, dtype=torch.float64).expand(images.shape[1])
    return values.to(images.dtype).to(images.device, non_blocking=True)[:, None, None]
