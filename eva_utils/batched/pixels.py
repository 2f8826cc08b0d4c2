"""Transforms that change values where they are: holes, grey, colours, normalisation."""

import albumentations as A
import numpy as np
import torch
from torch import Tensor

from eva_utils.batched.step import NotBatchedError, Parameters, Size, Step, filled

GREY_WEIGHTS = (9798, 19235, 3735)  # of red, green, blue, in 2**-15: OpenCV's 0.299, 0.587, 0.114


def coarse_dropout(transform: A.CoarseDropout, size: Size) -> Step:
    """Fill rectangles with one value."""
    if isinstance(transform.fill, str):
        raise NotBatchedError(transform, f"fill={transform.fill!r} is another in each image; name a number")
    for side, length in zip(("height", "width"), size, strict=True):
        least = getattr(transform, f"hole_{side}_range")[0]
        if least > length:
            raise ValueError(f"a hole's {side} of {least} pixels, but images of {length}: choose a smaller hole")
    fewest, most = transform.num_holes_range

    def draw(generator: np.random.Generator, count: int) -> Parameters:
        height, width = _hole_sizes(transform, size, generator, (count, most))
        y = generator.integers(0, size[0] - height + 1)
        x = generator.integers(0, size[1] - width + 1)
        holes = np.stack([x, y, x + width, y + height], axis=2)
        number = generator.integers(fewest, most + 1, size=count)
        holes[np.arange(most) >= number[:, None]] = 0  # the others are empty
        return {"holes": holes}

    def apply(images: Tensor, holes: Tensor) -> Tensor:
        x, y = (torch.arange(n, device=images.device) for n in (images.shape[3], images.shape[2]))
        x_in = (x >= holes[:, :, 0, None]) & (x < holes[:, :, 2, None])  # (B, holes, W)
        y_in = (y >= holes[:, :, 1, None]) & (y < holes[:, :, 3, None])  # (B, holes, H)
        inside = (y_in[:, :, :, None] & x_in[:, :, None, :]).any(dim=1, keepdim=True)  # (B, 1, H, W)
        return torch.where(inside, filled(images, transform.fill), images)

    return Step(apply, size, draw)


def to_gray(transform: A.ToGray, size: Size) -> Step:
    """Put one brightness into all three channels."""
    if transform.num_output_channels != 3:
        raise NotBatchedError(transform, f"num_output_channels={transform.num_output_channels}, batched is 3")
    methods = {"weighted_average": _weighted, "average": _average, "max": _largest, "desaturation": _middle}
    if transform.method not in methods:
        raise NotBatchedError(transform, f"method={transform.method!r}, batched are {', '.join(methods)}")
    brightness = methods[transform.method]
    return Step(lambda images: brightness(images).to(images.dtype).repeat(1, 3, 1, 1), size)


def color_jitter(transform: A.ColorJitter, size: Size) -> Step:
    """Change brightness, contrast and saturation by factors, in an order of each image's own."""
    if tuple(transform.hue) != (0, 0):
        raise NotBatchedError(transform, f"hue={transform.hue}, batched is hue=0")
    changes = {"brightness": _brighten, "contrast": _contrast, "saturation": _saturate}

    def draw(generator: np.random.Generator, count: int) -> Parameters:
        factors = {name: generator.uniform(*getattr(transform, name), size=count) for name in changes}
        order = generator.permuted(np.tile(np.arange(4), (count, 1)), axis=1)  # the fourth is hue
        return {**factors, "hue": np.zeros(count), "order": order}

    def apply(images: Tensor, order: Tensor, hue: Tensor, **factors: Tensor) -> Tensor:
        for turn in order.unbind(dim=1):
            for number, (name, change) in enumerate(changes.items()):
                rows = (turn == number).nonzero().flatten()
                factor = factors[name].index_select(0, rows)[:, None, None, None]
                images.index_copy_(0, rows, change(images.index_select(0, rows), factor))
        return images

    return Step(apply, size, draw)


def normalize(transform: A.Normalize, size: Size) -> Step:
    """Subtract the mean and divide by the deviation; the images become float32."""
    if transform.normalization != "standard":
        raise NotBatchedError(transform, f"normalization={transform.normalization!r}, batched is 'standard'")

    def apply(images: Tensor) -> Tensor:
        values = images.to(torch.float32, copy=True)
        return values.sub_(filled(values, transform.mean_np)).mul_(filled(values, transform.denominator))

    return Step(apply, size, optional=False)


def to_tensor(transform: A.BasicTransform, size: Size) -> Step:
    """Change nothing: batches are tensors (B, C, H, W) from the start."""
    return Step(lambda images: images, size)


def _hole_sizes(
    transform: A.CoarseDropout, size: Size, generator: np.random.Generator, shape: tuple[int, int]
) -> list[np.ndarray]:
    """Draw heights and widths: whole pixels if the heights reach 1, else shares of the image's size."""
    ranges = (transform.hole_height_range, transform.hole_width_range)
    if transform.hole_height_range[1] >= 1:
        bounds = [(int(low), int(min(high, n))) for (low, high), n in zip(ranges, size, strict=True)]
        return [generator.integers(low, high + 1, size=shape) for low, high in bounds]
    return [(n * generator.uniform(*r, size=shape)).astype(np.int64) for r, n in zip(ranges, size, strict=True)]


def _brighten(images: Tensor, factor: Tensor) -> Tensor:
    return _as_before(images.float() * factor, images)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = _weighted(images).float().mean(dim=(2, 3), keepdim=True)
    return _as_before(images.float() * factor + mean * (1 - factor), images)


def _saturate(images: Tensor, factor: Tensor) -> Tensor:
    blended = images.float() * factor + _weighted(images) * (1 - factor)
    return _as_before(blended if images.is_floating_point() else blended.round(), images)


def _as_before(values: Tensor, images: Tensor) -> Tensor:
    """Return the values in the images' type and range; whole grey levels are cut, not rounded, as the library does."""
    if images.is_floating_point():
        return values.clamp(0, 1)
    return values.clamp(0, 255).to(images.dtype)


def _weighted(images: Tensor) -> Tensor:
    weights = torch.tensor(GREY_WEIGHTS, device=images.device)[:, None, None]
    if images.is_floating_point():
        return (images * weights / 2**15).sum(dim=1, keepdim=True)
    return ((images.int() * weights).sum(dim=1, keepdim=True) + 2**14) >> 15


def _average(images: Tensor) -> Tensor:
    return images.float().mean(dim=1, keepdim=True)


def _largest(images: Tensor) -> Tensor:
    return images.amax(dim=1, keepdim=True)


def _middle(images: Tensor) -> Tensor:
    return (images.amax(dim=1, keepdim=True).float() + images.amin(dim=1, keepdim=True)) / 2
