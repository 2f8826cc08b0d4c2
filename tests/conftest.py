"""What several test files need."""

import importlib.util
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["MPLBACKEND"] = "agg"

import numpy as np
import pytest
from filelock import FileLock

from eva_utils.cifar10 import CIFAR10_CLASSES
from eva_utils.images import ImageSet, load_images
from eva_utils.shapes import SHAPE_CLASSES, draw_shapes

REAL_IMAGES, REAL_NAME = os.environ.get("EVA_DATA", ""), os.environ.get("EVA_DATA_NAME")
ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "notebooks" / "run.py"


@pytest.fixture(scope="session")
def run():
    """notebooks/run.py, which is a script and no module of the package."""
    spec = importlib.util.spec_from_file_location("run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Take Ctrl-C as Python does by default; where a shell runs tests in the background, it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def stages() -> Callable[[Path], list[dict[str, Any]]]:
    """Return the records of a training, the last one first, where it went on from the weights of another."""

    def read(path: Path) -> list[dict[str, Any]]:
        record = json.loads(path.read_text(encoding="utf-8"))
        start = record.get("arguments", {}).get("start")
        if not start:
            return [record]
        folder = "results" if start.endswith(".pt") else "experiments/records"  # a notebook's network, or a probe's
        return [record, *read((ROOT / folder / start).with_suffix(".json"))]

    return read


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
    if REAL_IMAGES in ("", "shapes", "cifar10"):  # the last would download it
        pytest.skip("EVA_DATA names no folder of CIFAR-10 images")
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # which all workers have
    with pytest.MonkeyPatch.context() as patch, FileLock(folder / "real.lock"):  # the first one reads the folders
        patch.setenv("EVA_CACHE", str(folder / "real"))
        train, test = load_images(REAL_IMAGES, name=REAL_NAME)
    if train.classes != CIFAR10_CLASSES or len(train) != 50_000:
        pytest.skip(f"EVA_DATA={REAL_IMAGES} are no CIFAR-10 images")
    return train, test


@pytest.fixture(scope="session")
def grey_ramp() -> np.ndarray:
    """An image uint8 (32, 32, 3) all of whose pixels differ from their neighbours."""
    ramp = np.arange(32 * 32 * 3).reshape(32, 32, 3) * 7 % 251
    return ramp.astype(np.uint8)
