"""Augmentation policies as albumentations pipelines, and the normalisation constants.

Each policy maps ``image=`` uint8 (H, W, 3) to ``["image"]``, a float32 tensor (3, H, W).
"""

from collections.abc import Sequence

import albumentations as A
import cv2
import numpy as np
from albumentations.pytorch import ToTensorV2
from torch import Tensor

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


def course_policy(
    *,
    flip: float = 0.5,
    affine: float = 0.5,
    shift: float = 0.1,
    scale: float = 0.1,
    rotate: float = 10,
    dropout: float = 0.5,
    hole: int = 16,
    grey: float = 0.0,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
) -> A.Compose:
    """Return the course's training policy: flip; shift, scale and rotate; one square hole; normalise.

    ``flip``, ``affine``, ``dropout`` and ``grey`` are probabilities (0 to 1; ``grey=0`` leaves ToGray out).
    ``shift`` is a fraction of the image's size, ``scale`` a fraction of 1, ``rotate`` in degrees: each is drawn
    evenly from minus to plus. ``hole`` is the side of the hole in pixels; it is filled with ``mean``, which
    normalises to 0 (in an image made grey, with the grey of that). The hole is that of DeVries & Taylor
    2017 (Cutout), but always whole within the image, which must not be smaller.
    """
    return A.Compose(
        [
            A.HorizontalFlip(p=flip),
            A.Affine(
                translate_percent=(-shift, shift),
                scale=(1 - scale, 1 + scale),
                rotate=(-rotate, rotate),
                keep_ratio=True,
                border_mode=cv2.BORDER_REFLECT_101,
                p=affine,
            ),
            _hole(hole, mean, dropout),
            *([A.ToGray(p=grey)] if grey else []),
            *_normalize(mean, std),
        ]
    )


def crop_policy(
    *,
    flip: float = 0.5,
    padding: int = 4,
    size: int = 32,
    dropout: float = 0.5,
    hole: int = 16,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
) -> A.Compose:
    """Return the usual CIFAR-10 training policy: flip; pad and crop; one square hole; normalise.

    The image is padded by ``padding`` mirrored pixels on each side and cropped to ``size`` x ``size`` again, so
    that no pixel is interpolated. The other arguments are those of :func:`course_policy`.
    """
    return A.Compose(
        [
            A.HorizontalFlip(p=flip),
            A.Pad(padding=padding, border_mode=cv2.BORDER_REFLECT_101),
            A.RandomCrop(size, size),
            _hole(hole, mean, dropout),
            *_normalize(mean, std),
        ]
    )


def eval_policy(*, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> A.Compose:
    """Return the policy for images that a network is tested on: normalise, nothing random."""
    return A.Compose(_normalize(mean, std))


def denormalize(
    images: Tensor,
    *,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
) -> np.ndarray:
    """Return normalised images (..., 3, H, W) as uint8 (..., H, W, 3), to look at them."""
    channels_last = images.detach().cpu().float().movedim(-3, -1).numpy()
    pixels = (channels_last * np.float32(std) + np.float32(mean)) * 255
    return pixels.round().clip(0, 255).astype(np.uint8)


def _hole(side: int, mean: Sequence[float], probability: float) -> A.CoarseDropout:
    return A.CoarseDropout(
        num_holes_range=(1, 1),
        hole_height_range=(side, side),
        hole_width_range=(side, side),
        fill=tuple(round(255 * value) for value in mean),  # before Normalize: in grey levels
        p=probability,
    )


def _normalize(mean: Sequence[float], std: Sequence[float]) -> list[A.BasicTransform]:
    if min(std) <= 0:
        raise ValueError(f"std={tuple(std)}: expected deviations above 0, such as CIFAR10_STD")
    return [A.Normalize(mean=tuple(mean), std=tuple(std)), ToTensorV2()]
