"""What several test files need."""

import os

os.environ["MPLBACKEND"] = "agg"

import numpy as np
import pytest

from eva_utils.images import ImageSet, load_images
from eva_utils.shapes import SHAPE_CLASSES, draw_shapes

REAL_IMAGES = os.environ.get("EVA_DATA", "")


@pytest.fixture(autouse=True)
def own_environment(tmp_path_factory, monkeypatch):
    """Keep the user's settings and cache out of the tests, and the tests out of the user's cache."""
    for name in ("EVA_DATA", "EVA_DATA_NAME", "EVA_SMOKE", "EVA_DEMO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EVA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def shapes() -> ImageSet:
    return ImageSet(*draw_shapes(60, seed=5), SHAPE_CLASSES, "shapes")


@pytest.fixture(scope="session")
def real_images(tmp_path_factory) -> tuple[ImageSet, ImageSet]:
    """CIFAR-10 as EVA_DATA names it; the test skips where it names none."""
    if not REAL_IMAGES or REAL_IMAGES == "shapes":
        pytest.skip("EVA_DATA names no CIFAR-10 images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return load_images(REAL_IMAGES)


@pytest.fixture(scope="session")
def grey_ramp() -> np.ndarray:
    """An image uint8 (32, 32, 3) all of whose pixels differ from their neighbours."""
    ramp = np.arange(32 * 32 * 3).reshape(32, 32, 3) * 7 % 251
    return ramp.astype(np.uint8)
