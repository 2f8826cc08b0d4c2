"""An albumentations policy run on whole batches, on any device.

The ``Compose`` stays the one place where the policy is written: each of its transforms is looked up here, its
parameters are drawn by the same laws for all images of an epoch at once, and then applied to the images of a batch
together. For the same parameters the pixels are albumentations' own, within one grey level, or two after changes of
colour.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import albumentations as A
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torch import Tensor

from eva_utils.batched import geometry, pixels
from eva_utils.batched.step import NotBatchedError, Parameters, Size, Step

BATCHED = {
    A.Affine: geometry.affine,
    A.CenterCrop: geometry.center_crop,
    A.CoarseDropout: pixels.coarse_dropout,
    A.ColorJitter: pixels.color_jitter,
    A.HorizontalFlip: geometry.horizontal_flip,
    A.NoOp: pixels.to_tensor,
    A.Normalize: pixels.normalize,
    A.Pad: geometry.pad,
    A.PadIfNeeded: geometry.pad,
    A.RandomCrop: geometry.random_crop,
    A.RandomRotate90: geometry.quarter_turns,
    A.Rotate: geometry.rotate,
    A.ShiftScaleRotate: geometry.affine,
    A.ToGray: pixels.to_gray,
    ToTensorV2: pixels.to_tensor,
    A.Transpose: geometry.transpose,
    A.VerticalFlip: geometry.vertical_flip,
}

Choice = tuple[int, float, float]  # the number of a random draw, and from where to where it says yes


@dataclass(frozen=True)
class Leaf:
    """A transform of the policy, its step, and the draws that must all say yes for it to be applied."""

    transform: A.BasicTransform
    step: Step
    choices: tuple[Choice, ...]


class BatchedPolicy:
    """An albumentations policy for batches of images ``size`` = (height, width).

    Takes Compose, Sequential and OneOf of the transforms in ``BATCHED``. Raises ValueError, with the transform's
    name and the way out, for anything that cannot be batched.
    """

    def __init__(self, transform: A.Compose, size: Size) -> None:
        self.leaves: list[Leaf] = []
        self._draws = 0
        for leaf, choices in self._flatten(transform, (), forced=False):
            if type(leaf) not in BATCHED:
                names = ", ".join(sorted(known.__name__ for known in BATCHED))
                raise NotBatchedError(leaf, f"batched are {names}, in Compose, Sequential and OneOf")
            step = BATCHED[type(leaf)](leaf, size)
            if choices and not step.optional:
                raise NotBatchedError(leaf, "it changes the images' size or type, so that its p must be 1")
            self.leaves.append(Leaf(leaf, step, choices))
            size = step.size
        self.size = size

    def draw(self, count: int, *, seed: int, epoch: int) -> list[Parameters]:
        """Draw the parameters of an epoch: for each leaf ``count`` rows, of which row i is sample i's.

        They depend on (seed, epoch, sample) alone. "applied" says which samples take the transform; the other names
        are albumentations' own.
        """

        def generator(*key: int) -> np.random.Generator:
            return np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=key))

        uniform = [generator(0, number).random(count) for number in range(self._draws)]
        drawn = []
        for number, leaf in enumerate(self.leaves):
            applied = np.ones(count, dtype=bool)
            for choice, low, high in leaf.choices:
                applied &= (uniform[choice] >= low) & (uniform[choice] < high)
            drawn.append({"applied": applied, **leaf.step.draw(generator(1, number), count)})
        return drawn

    def __call__(self, images: Tensor, drawn: list[Parameters], samples: np.ndarray) -> Tensor:
        """Return the policy of ``images`` uint8 (B, C, H, W), which are the ``samples`` (B,) of the epoch drawn.

        ``images`` may be overwritten. The result is float32 (B, C, height, width) after Normalize.
        """
        for leaf, parameters in zip(self.leaves, drawn, strict=True):
            rows = parameters["applied"][samples].nonzero()[0]
            mine = {
                name: _tensor(values[samples[rows]], images.device)
                for name, values in parameters.items()
                if name != "applied"
            }
            if len(rows) == len(images):
                images = leaf.step.apply(images, **mine)
            elif len(rows):
                places = _tensor(rows, images.device)
                images.index_copy_(0, places, leaf.step.apply(images.index_select(0, places), **mine))
        return images

    def _flatten(
        self, transform: A.BasicTransform | A.BaseCompose, choices: tuple[Choice, ...], *, forced: bool
    ) -> Iterator[tuple[A.BasicTransform, tuple[Choice, ...]]]:
        """Give each transform in order, with the draws that its own p and those around it ask for."""
        share = 1.0 if forced else min(1.0, transform.p)
        if type(transform) is A.OneOf:
            number, ends = self._new_draw(), share * np.cumsum([0.0, *transform.transforms_ps])
            ends[-1] = share  # a sum of shares may miss 1 by a rounding
            for child, low, high in zip(transform.transforms, ends, ends[1:], strict=False):
                yield from self._flatten(child, (*choices, (number, low, high)), forced=True)
            return
        if share < 1:
            choices = (*choices, (self._new_draw(), 0.0, share))
        if type(transform) not in (A.Compose, A.Sequential):
            yield transform, choices
            return
        for child in transform.transforms:
            yield from self._flatten(child, choices, forced=False)

    def _new_draw(self) -> int:
        self._draws += 1
        return self._draws - 1


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    """Return the array as a tensor on the device, floating point in single precision, which each device has."""
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    return torch.from_numpy(values).to(device, non_blocking=True)
