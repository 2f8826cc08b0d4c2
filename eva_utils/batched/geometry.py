"""Transforms that move pixels: flips, quarter turns, padding, crops, affine maps."""

from collections.abc import Callable
from functools import partial

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eva_utils.batched.step import NotBatchedError, Parameters, Size, Step, filled

# What grid_sample calls OpenCV's borders, and whether it counts from the centres of the outermost pixels.
BORDERS = {
    cv2.BORDER_CONSTANT: ("zeros", True),
    cv2.BORDER_REPLICATE: ("border", True),
    cv2.BORDER_REFLECT: ("reflection", False),
    cv2.BORDER_REFLECT_101: ("reflection", True),
}


def horizontal_flip(transform: A.HorizontalFlip, size: Size) -> Step:
    """Mirror left and right."""
    return Step(lambda images: images.flip(3), size)


def vertical_flip(transform: A.VerticalFlip, size: Size) -> Step:
    """Mirror top and bottom."""
    return Step(lambda images: images.flip(2), size)


def transpose(transform: A.Transpose, size: Size) -> Step:
    """Exchange rows and columns."""
    height, width = size
    return Step(lambda images: images.transpose(2, 3), (width, height), optional=height == width)


def quarter_turns(transform: A.RandomRotate90, size: Size) -> Step:
    """Turn by 0, 1, 2 or 3 quarters."""
    if size[0] != size[1]:
        raise NotBatchedError(transform, f"of images {size[0]}x{size[1]} it gives two sizes")

    def draw(generator: np.random.Generator, count: int) -> Parameters:
        return {"factor": generator.integers(4, size=count)}

    def apply(images: Tensor, factor: Tensor) -> Tensor:
        turned = torch.stack([images.rot90(quarters, (2, 3)) for quarters in range(4)])
        return turned[factor, torch.arange(len(images), device=images.device)]

    return Step(apply, size, draw)


def pad(transform: A.Pad, size: Size) -> Step:
    """Add rows and columns at the borders, the same for each image."""
    if getattr(transform, "position", "") == "random":
        raise NotBatchedError(transform, "position='random'")
    known = transform.get_params_dependent_on_data({"shape": (*size, 3)}, {})
    (top, bottom), (left, right) = (
        (known[f"pad_{side}"] for side in sides) for sides in (("top", "bottom"), ("left", "right"))
    )
    rows = _sources(np.arange(-top, size[0] + bottom), size[0], transform.border_mode)
    columns = _sources(np.arange(-left, size[1] + right), size[1], transform.border_mode)

    def apply(images: Tensor) -> Tensor:
        out = images.index_select(2, rows.to(images.device)).index_select(3, columns.to(images.device))
        if transform.border_mode == cv2.BORDER_CONSTANT:
            inner = out[:, :, top : top + size[0], left : left + size[1]].clone()
            out[:] = filled(images, transform.fill)
            out[:, :, top : top + size[0], left : left + size[1]] = inner
        return out

    new_size = (len(rows), len(columns))
    return Step(apply, new_size, optional=new_size == size)


def random_crop(transform: A.RandomCrop, size: Size) -> Step:
    """Cut a window of fixed size out at a random place."""
    window = _window(transform, size)
    places = np.array([size[1] - window[1] + 1, size[0] - window[0] + 1])

    def draw(generator: np.random.Generator, count: int) -> Parameters:
        first = (generator.random((count, 2)) * places).astype(np.int64)
        return {"crop_coords": np.concatenate([first, first + window[::-1]], axis=1)}

    def apply(images: Tensor, crop_coords: Tensor) -> Tensor:
        windows = images.unfold(2, window[0], 1).unfold(3, window[1], 1)  # (B, C, places, places, height, width)
        return windows[torch.arange(len(images), device=images.device), :, crop_coords[:, 1], crop_coords[:, 0]]

    return Step(apply, window, draw, optional=window == size)


def center_crop(transform: A.CenterCrop, size: Size) -> Step:
    """Cut a window of fixed size out of the middle."""
    window = _window(transform, size)
    x, y, x_end, y_end = transform.get_params_dependent_on_data({"shape": (*size, 3)}, {})["crop_coords"]
    return Step(lambda images: images[:, :, y:y_end, x:x_end], window, optional=window == size)


def affine(transform: A.Affine, size: Size) -> Step:
    """Shift, scale, rotate and shear, with bilinear interpolation."""
    if transform.fit_output:
        raise NotBatchedError(transform, "fit_output=True gives each image a size of its own")

    def draw(generator: np.random.Generator, count: int) -> Parameters:
        x, y = _scales(transform, generator, count)
        turn = np.deg2rad(generator.uniform(*transform.rotate, size=count))
        shear = [np.tan(np.deg2rad(-generator.uniform(*transform.shear[axis], size=count))) for axis in "xy"]
        cos, sin = np.cos(turn), np.sin(turn)
        # shear @ rotation @ scale, in this order of albumentations
        linear = [
            [(cos - shear[0] * sin) * x, (sin + shear[0] * cos) * y],
            [(shear[1] * cos - sin) * x, (shear[1] * sin + cos) * y],
        ]
        return {"matrix": _matrices(np.array(linear), _shifts(transform, size, generator, count), size)}

    return _warp(transform, size, draw)


def rotate(transform: A.Rotate, size: Size) -> Step:
    """Rotate about the middle, with bilinear interpolation."""
    if transform.crop_border:
        raise NotBatchedError(transform, "crop_border=True gives each image a size of its own")

    def draw(generator: np.random.Generator, count: int) -> Parameters:
        turn = np.deg2rad(generator.uniform(*transform.limit, size=count))
        cos, sin = np.cos(turn), np.sin(turn)
        return {"matrix": _matrices(np.array([[cos, sin], [-sin, cos]]), np.zeros((2, count)), size)}

    return _warp(transform, size, draw)


def _sources(places: np.ndarray, size: int, border_mode: int) -> Tensor:
    """Return which of ``size`` pixels OpenCV shows at these places, some of which lie outside."""
    if border_mode == cv2.BORDER_WRAP:
        places = places % size
    elif border_mode in (cv2.BORDER_REFLECT, cv2.BORDER_REFLECT_101):
        period = 2 * size if border_mode == cv2.BORDER_REFLECT else max(1, 2 * size - 2)
        places = places % period
        places = np.where(places < size, places, period - places - (border_mode == cv2.BORDER_REFLECT))
    return torch.from_numpy(places.clip(0, size - 1))


def _window(transform: A.RandomCrop | A.CenterCrop, size: Size) -> Size:
    window = (transform.height, transform.width)
    if window[0] > size[0] or window[1] > size[1]:
        raise NotBatchedError(transform, f"{window[0]}x{window[1]} do not fit into {size[0]}x{size[1]}; pad before it")
    return window


def _scales(transform: A.Affine, generator: np.random.Generator, count: int) -> list[np.ndarray]:
    """Draw the factors along x and y as albumentations does."""
    scales = []
    for axis in "xy":
        low, high = transform.scale[axis]
        draws = generator.uniform(low, high, size=count)
        if transform.balanced_scale and low < 1 < high:
            smaller = generator.random(count) < 0.5
            draws = np.where(smaller, generator.uniform(low, 1, size=count), generator.uniform(1, high, size=count))
        elif transform.balanced_scale and low == high == 1:
            draws = np.ones(count)
        scales.append(draws)
    return [scales[0], scales[0]] if transform.keep_ratio else scales


def _shifts(transform: A.Affine, size: Size, generator: np.random.Generator, count: int) -> np.ndarray:
    """Draw how many whole pixels each image moves along x and y: (2, N)."""
    if transform.translate_px is not None:
        bounds = [transform.translate_px[axis] for axis in "xy"]
        return np.array([generator.integers(int(low), int(high) + 1, size=count) for low, high in bounds])
    bounds = [transform.translate_percent[axis] for axis in "xy"]
    lengths = (size[1], size[0])
    shares = [generator.uniform(*bound, size=count) for bound in bounds]
    return np.trunc([share * length for share, length in zip(shares, lengths, strict=True)])


def _matrices(linear: np.ndarray, shift: np.ndarray, size: Size) -> np.ndarray:
    """Return the maps (N, 3, 3) that do ``linear`` (2, 2, N) about the middle, and then ``shift`` (2, N)."""
    middle = np.array([size[1] / 2 - 0.5, size[0] / 2 - 0.5])
    matrices = np.zeros((shift.shape[1], 3, 3))
    matrices[:, :2, :2] = linear.transpose(2, 0, 1)
    matrices[:, :2, 2] = middle + shift.T - matrices[:, :2, :2] @ middle
    matrices[:, 2, 2] = 1
    return matrices


def _warp(transform: A.Affine | A.Rotate, size: Size, draw: Callable[[np.random.Generator, int], Parameters]) -> Step:
    if transform.interpolation != cv2.INTER_LINEAR:
        raise NotBatchedError(transform, "of the interpolations, cv2.INTER_LINEAR alone is batched")
    if transform.border_mode not in BORDERS:
        raise NotBatchedError(transform, "its border_mode is not batched")
    return Step(partial(_warped, border_mode=transform.border_mode, fill=transform.fill), size, draw)


def _warped(images: Tensor, matrix: Tensor, border_mode: int, fill: float | tuple[float, ...]) -> Tensor:
    """Return the images (B, C, H, W) seen through the maps (B, 3, 3), which say where each pixel goes."""
    height, width = images.shape[2:]
    padding_mode, from_centres = BORDERS[border_mode]
    # where each pixel of the result comes from: the inverse map
    a, b, c, d = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1]
    inverse = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]
    place = [torch.arange(n, device=images.device, dtype=matrix.dtype) for n in (width, height)]
    x = (place[0] - matrix[:, 0, 2, None])[:, None, :]  # (B, 1, W)
    y = (place[1] - matrix[:, 1, 2, None])[:, :, None]  # (B, H, 1)
    sources = [inverse[:, axis, 0, None, None] * x + inverse[:, axis, 1, None, None] * y for axis in range(2)]
    if from_centres:
        grid = [2 * source / max(1, n - 1) - 1 for source, n in zip(sources, (width, height), strict=True)]
    else:
        grid = [(2 * source + 1) / n - 1 for source, n in zip(sources, (width, height), strict=True)]
    border = filled(images, fill).float() if border_mode == cv2.BORDER_CONSTANT else 0.0
    out = F.grid_sample(
        images.float() - border,
        torch.stack(grid, dim=3).float(),
        mode="bilinear",
        padding_mode=padding_mode,
        align_corners=from_centres,
    )
    out = out + border
    return out if images.is_floating_point() else out.round().clamp(0, 255).to(images.dtype)
