import functools
import hashlib
import http.server
import pickle
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torchvision.datasets

from eva_utils.cifar10 import CIFAR10_CLASSES
from eva_utils.images import ImageSet, hold_out, load_images
from eva_utils.transforms import CIFAR10_MEAN, CIFAR10_STD

IMAGES = np.zeros((4, 32, 32, 3), np.uint8)
LABELS = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.astype(np.float32), LABELS, r"images are float32 .*expected uint8"),
        (IMAGES[..., 0], LABELS, r"images are uint8 \(4, 32, 32\): expected uint8 \(N, H, W, 3\)"),
        (IMAGES, LABELS[:3], r"labels are int64 \(3,\): expected int64 \(4,\)"),
        (IMAGES, LABELS.astype(np.int32), r"labels are int32"),
        (IMAGES, np.array([0, 1, 2, 1]), r"label 2 of image 2 names none of the 2 classes: expected 0 to 1"),
        (IMAGES, np.array([0, -1, 1, 1]), r"label -1 of image 1"),
    ],
)
def test_image_set_refuses_what_does_not_fit(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels, ("cat", "dog"), "pets")


def test_image_set_tells_what_it_is_and_gives_subsets():
    pets = ImageSet(IMAGES, LABELS, ("cat", "dog"), "pets")
    assert repr(pets) == "ImageSet(pets: 4 images of 32x32 pixels, 2 classes)"
    assert pets.subset(np.array([3, 0])).labels.tolist() == [1, 0]


def test_hold_out_takes_equally_of_each_class_and_loses_nothing(shapes):
    rest, held = hold_out(shapes, 20, seed=1)
    assert np.bincount(held.labels).tolist() == [2] * 10
    both = np.concatenate([rest.images, held.images]).reshape(len(shapes), -1)
    original = shapes.images.reshape(len(shapes), -1)
    assert np.array_equal(np.unique(both, axis=0), np.unique(original, axis=0))
    assert np.array_equal(held.images, hold_out(shapes, 20, seed=1)[1].images)
    assert not np.array_equal(held.images, hold_out(shapes, 20, seed=2)[1].images)


@pytest.mark.parametrize("count", [0, 15, 60, -10])
def test_hold_out_refuses_counts_that_do_not_fit(shapes, count):
    with pytest.raises(ValueError, match=f"count={count}: expected (a multiple of the 10 classes|0 or more)"):
        hold_out(shapes, count)


@pytest.mark.parametrize(("variable", "counts"), [("EVA_SMOKE", (400, 200)), ("EVA_DEMO", (4000, 1000))])
def test_short_runs_use_the_shapes_whatever_eva_data_names(monkeypatch, variable, counts):
    monkeypatch.setenv("EVA_DATA", "/nowhere")
    monkeypatch.setenv(variable, "1")
    train, test = load_images()
    assert (len(train), len(test), train.name) == (*counts, "shapes")
    assert not (train.images[:200] == test.images[:200]).all(axis=(1, 2, 3)).any()


def test_eva_data_names_the_default(monkeypatch):
    monkeypatch.setenv("EVA_DATA", "/nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no folder '/nowhere', which EVA_DATA names: name"):
        load_images()


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match=r"source is empty: name \"cifar10\""):
        load_images("")


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """An archive in CIFAR-10's own format of 10 images a file, with torchvision told its checksums."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch():
        return {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), "labels": [*range(10)]}

    dataset = torchvision.datasets.CIFAR10
    names = [name for name, _ in dataset.train_list]
    monkeypatch.setattr(dataset, "train_list", [write(name, batch()) for name in names])
    monkeypatch.setattr(dataset, "test_list", [write("test_batch", batch())])
    name, md5 = write("batches.meta", {"label_names": list(CIFAR10_CLASSES)})
    monkeypatch.setattr(dataset, "meta", {"filename": name, "key": "label_names", "md5": md5})
    archive = tmp_path / "origin" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr("eva_utils.cifar10.CIFAR10_BYTES", archive.stat().st_size)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=archive.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(dataset, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        yield folder
        server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


@pytest.mark.filterwarnings("ignore:The default behavior of tarfile:DeprecationWarning")
def test_cifar10_is_downloaded_once_and_read_by_torchvision(small_cifar10, cache, monkeypatch):
    monkeypatch.setattr("eva_utils.cifar10.CIFAR10_MIRRORS", ("http://127.0.0.1:1/down.tar.gz",))
    train, test = load_images("cifar10")
    assert (len(train), len(test), train.classes, train.name) == (50, 10, CIFAR10_CLASSES, "CIFAR-10")
    with open(small_cifar10 / "test_batch", "rb") as file:
        planes = pickle.load(file)["data"].reshape(10, 3, 32, 32)
    assert np.array_equal(test.images, planes.transpose(0, 2, 3, 1))
    assert test.labels.tolist() == [*range(10)]

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:1/down.tar.gz")
    again, _ = load_images("cifar10")  # from the cached arrays
    assert np.array_equal(again.images, train.images)
    (cache / "cifar10.npz").write_bytes(b"damaged")
    again, _ = load_images("cifar10")  # from the unpacked files
    assert np.array_equal(again.labels, train.labels)
    assert [*cache.glob("*.part")] == []


@pytest.mark.filterwarnings("ignore:The default behavior of tarfile:DeprecationWarning")
def test_a_place_of_ones_own_is_tried_first(small_cifar10, cache, monkeypatch):
    url, dataset = torchvision.datasets.CIFAR10.url, torchvision.datasets.CIFAR10
    monkeypatch.setattr(dataset, "url", "http://127.0.0.1:1/down.tar.gz")
    monkeypatch.setattr("eva_utils.cifar10.CIFAR10_MIRRORS", ("http://127.0.0.1:2/down.tar.gz",))
    monkeypatch.setenv("EVA_CIFAR10_URL", url)
    assert len(load_images("cifar10")[0]) == 50


@pytest.mark.filterwarnings("ignore:The default behavior of tarfile:DeprecationWarning")
def test_an_archive_that_was_put_there_is_taken(small_cifar10, cache, monkeypatch):
    cache.mkdir()
    (cache / "cifar-10-python.tar.gz").write_bytes(
        (small_cifar10.parent / "origin" / "cifar-10-python.tar.gz").read_bytes()
    )
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:1/down.tar.gz")
    monkeypatch.setattr("eva_utils.cifar10.CIFAR10_MIRRORS", ())
    assert len(load_images("cifar10")[0]) == 50


@pytest.mark.filterwarnings("ignore:The default behavior of tarfile:DeprecationWarning")
def test_a_cut_while_unpacking_is_mended_from_the_archive(small_cifar10, cache, monkeypatch):
    train, _ = load_images("cifar10")
    (cache / "cifar10.npz").unlink()
    (cache / "cifar-10-batches-py" / "data_batch_4").write_bytes(b"cut")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:1/down.tar.gz")
    assert np.array_equal(load_images("cifar10")[0].images, train.images)
    assert (cache / "cifar10.npz").exists()


@pytest.mark.filterwarnings("ignore:The default behavior of tarfile:DeprecationWarning")
def test_several_that_load_at_once_wait_for_the_first(small_cifar10, cache, monkeypatch):
    unpacked = []
    unpack = torchvision.datasets.CIFAR10.__init__

    def slowly(self, root, train=True, download=False):
        if download:
            unpacked.append(1)
            time.sleep(0.5)
        unpack(self, root, train=train, download=download)

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", slowly)
    with ThreadPoolExecutor(3) as pool:
        results = [*pool.map(lambda _: len(load_images("cifar10")[0]), range(3))]
    assert results == [50, 50, 50]
    assert len(unpacked) == 1


def test_a_cache_that_cannot_be_written_is_said(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EVA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        OSError, match=r"cannot keep images in '.*cache' \(.*\): free some space there, or set EVA_CACHE"
    ):
        load_images("cifar10")


def test_a_folder_of_cifar10s_own_files_is_read_without_download(small_cifar10, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "file:///nowhere")
    assert len(load_images(small_cifar10.parent)[0]) == 50
    monkeypatch.setenv("EVA_DATA", str(small_cifar10.parent))
    monkeypatch.setenv("EVA_DATA_NAME", "CIFAR-10, JPEG q75")  # of a folder that was named before
    assert load_images()[0].name == "CIFAR-10"
    assert load_images(name="a copy")[0].name == "a copy"


def test_damaged_cifar10_files_are_refused(small_cifar10):
    with open(small_cifar10 / "test_batch", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"CIFAR-10 files in .* are damaged .*: delete "):
        load_images(small_cifar10.parent)


def test_an_unreachable_host_is_said_with_the_ways_out(cache, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:1/origin.tar.gz")
    monkeypatch.setattr("eva_utils.cifar10.CIFAR10_MIRRORS", ("http://127.0.0.1:2/mirror.tar.gz",))
    with pytest.raises(ConnectionError) as caught:
        load_images("cifar10")
    text = str(caught.value)
    for part in (
        "127.0.0.1:1/origin",
        "127.0.0.1:2/mirror",
        "refused",
        str(cache),
        "EVA_DATA",
        'load_images("shapes")',
    ):
        assert part in text


def test_constants_agree_with_the_real_images(real_images):
    train, test = real_images
    assert train.classes == CIFAR10_CLASSES
    assert (len(train), len(test)) == (50_000, 10_000)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    pixels = train.images.reshape(-1, 3)
    counts = np.stack([np.bincount(pixels[:, c], minlength=256) for c in range(3)])
    values = np.arange(256) / 255
    mean = counts @ values / len(pixels)
    std = np.sqrt(counts @ values**2 / len(pixels) - mean**2)
    np.testing.assert_allclose(mean, CIFAR10_MEAN, atol=0.0005)
    np.testing.assert_allclose(std, CIFAR10_STD, atol=0.002)  # JPEG loses a little colour
