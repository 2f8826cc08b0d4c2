"""The built-in images: ten kinds of shapes, drawn, so that the series runs with no network.

Only operations that every machine rounds alike are used (no sine, exponential or fused product), so one
seed gives one set of images everywhere.
"""

import numpy as np

from eva_utils.checks import whole_number

SHAPE_CLASSES = (
    "circle",
    "crescent",
    "cross",
    "frame",
    "hexagon",
    "ring",
    "square",
    "star",
    "stripes",
    "triangle",
)
SIZE = 32  # pixels
CHUNK = 256  # images drawn at once
HALF_SQRT3 = np.float32(0.8660254)


def draw_shapes(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``count`` images uint8 (count, 32, 32, 3) and their labels int64 (count,).

    Each image is one shape of ``SHAPE_CLASSES`` at a random place, size, angle and colour on a random
    two-coloured background under noise; the classes are as equal in number as ``count`` allows. Raises
    ValueError if ``count`` is less than one image a class.
    """
    count = whole_number("count", count, least=len(SHAPE_CLASSES))  # one image a class
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(SHAPE_CLASSES))
    images = [_draw(labels[start : start + CHUNK], rng) for start in range(0, count, CHUNK)]
    return np.concatenate(images), labels


def _draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return images uint8 (N, 32, 32, 3) of the shapes that ``labels`` (N,) names."""
    coverage = _coverage(labels, rng)[..., None]
    ground = _background(len(labels), rng)
    change = _uniform(rng, 0.25, 0.7, (len(labels), 1, 1, 3))
    change *= np.where(rng.random((len(labels), 1, 1, 3)) < 0.5, -1, 1).astype(np.float32)
    noise = _uniform(rng, -0.08, 0.08, ground.shape) + _uniform(rng, -0.08, 0.08, ground.shape)
    return (np.clip(ground + coverage * change + noise, 0, 1) * 255).astype(np.uint8)


def _coverage(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return how much of each pixel the shape covers: 0 to 1, (N, 32, 32)."""
    count = len(labels)
    centre = _uniform(rng, 12, 20, (2, count, 1, 1))
    radius = _uniform(rng, 7, 12, (count, 1, 1))
    cos, sin = _direction(rng, count)
    grid = (np.arange(2 * SIZE, dtype=np.float32) + np.float32(0.5)) / 2  # two samples a pixel
    x, y = grid[None, None, :] - centre[0], grid[None, :, None] - centre[1]
    u, v = (cos * x + sin * y) / radius, (cos * y - sin * x) / radius
    inside = np.empty(u.shape, bool)
    for label in range(len(SHAPE_CLASSES)):
        chosen = labels == label
        inside[chosen] = _inside(SHAPE_CLASSES[label], u[chosen], v[chosen])
    samples = inside.reshape(count, SIZE, 2, SIZE, 2).astype(np.float32)
    return samples.sum(axis=(2, 4)) / 4


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return whether points of the shape's own coordinates (its radius is 1) lie inside it."""
    square, disc = np.maximum(abs(u), abs(v)), u * u + v * v
    match shape:
        case "circle":
            return disc < 0.8
        case "crescent":
            return (disc < 1) & ((u - 0.5) * (u - 0.5) + v * v > 0.6)
        case "cross":
            return (square < 0.95) & (np.minimum(abs(u), abs(v)) < 0.27)
        case "frame":
            return (square < 0.85) & (square > 0.5)
        case "hexagon":
            slanted = HALF_SQRT3 * abs(u) + 0.5 * abs(v)
            return np.maximum(abs(v), slanted) < 0.85
        case "ring":
            return (disc < 0.95) & (disc > 0.4)
        case "square":
            return square < 0.8
        case "star":
            return np.sqrt(abs(u)) + np.sqrt(abs(v)) < 1.15
        case "stripes":
            return (square < 0.85) & (abs(v) > 0.3)
        case "triangle":
            return np.maximum(-v, 0.5 * v + HALF_SQRT3 * abs(u)) < 0.55
    raise ValueError(f"no shape is called {shape!r}")


def _background(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return colours 0.1 to 0.9 that blend from one to another: (N, 32, 32, 3)."""
    colours = _uniform(rng, 0.1, 0.9, (2, count, 1, 1, 3))
    cos, sin = _direction(rng, count)
    ramp = np.linspace(-0.35, 0.35, SIZE, dtype=np.float32)
    blend = (cos * ramp[None, None, :] + sin * ramp[None, :, None] + np.float32(0.5))[..., None]
    return colours[0] + blend * (colours[1] - colours[0])


def _direction(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two coordinates of random unit vectors, each (N, 1, 1), without a sine."""
    points = _uniform(rng, -1, 1, (2, count, 1, 1)) + np.float32(1e-3)
    length = np.sqrt(points[0] * points[0] + points[1] * points[1])
    return points[0] / length, points[1] / length


def _uniform(rng: np.random.Generator, low: float, high: float, shape: tuple) -> np.ndarray:
    return rng.random(shape, np.float32) * np.float32(high - low) + np.float32(low)
