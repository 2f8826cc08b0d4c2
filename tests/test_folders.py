import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eva_utils import folders
from eva_utils.images import load_images


def save(path, colour=(200, 100, 50), size=(32, 32), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def pets(tmp_path):
    root = tmp_path / "pets"
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                save(root / split / name / f"{index}.png", (label * 100, index * 10, 7))
    return root


def test_images_stand_in_the_order_of_classes_and_names(pets):
    save(pets / "train" / "cat" / "10.png", (1, 2, 3))  # before "2.png" in the alphabet
    save(pets / "train" / "cat" / "0.JPG", (9, 9, 9))
    (pets / ".DS_Store").touch()
    (pets / "train" / ".hidden").touch()
    (pets / "train" / "dog" / "Thumbs.db").touch()
    train, test = load_images(pets)
    assert (train.classes, train.name) == (("cat", "dog"), "pets")
    assert train.labels.tolist() == [0] * 5 + [1] * 3
    assert train.images[2:4, 0, 0].tolist() == [[0, 10, 7], [1, 2, 3]]
    assert test.images[:, 31, 31].tolist() == [[0, 0, 7], [0, 10, 7], [100, 0, 7], [100, 10, 7]]


def test_a_name_for_the_results_can_be_given(pets, monkeypatch):
    monkeypatch.setenv("EVA_DATA", str(pets))
    monkeypatch.setenv("EVA_DATA_NAME", "from the environment")
    assert load_images()[0].name == "from the environment"
    assert load_images(pets)[0].name == "pets"
    for source in (pets, "shapes"):
        assert load_images(source, name="given")[0].name == "given"
    monkeypatch.setenv("EVA_DATA", "shapes")  # which EVA_DATA_NAME was not meant for
    assert load_images()[0].name == load_images("shapes")[0].name == "shapes"


def test_a_cache_that_cannot_be_written_costs_only_time(pets, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVA_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="could not be kept .*set EVA_CACHE to a folder that can be written"):
        assert len(load_images(pets)[0]) == 6


def test_the_second_time_nothing_is_decoded(pets, monkeypatch):
    first = load_images(pets)
    monkeypatch.setattr(folders, "_decode_image", None)
    second = load_images(pets)
    assert np.array_equal(first[0].images, second[0].images)
    assert np.array_equal(first[1].labels, second[1].labels)


def cache_file():
    (path,) = Path(os.environ["EVA_CACHE"]).glob("folder-*.npz")
    return path


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVA_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache")
def test_a_changed_file_is_decoded_anew(pets):
    load_images(pets)
    save(pets / "train" / "cat" / "0.png", (5, 6, 7))
    assert load_images(pets)[0].images[0, 0, 0].tolist() == [5, 6, 7]
    (pets / "train" / "cat" / "2.png").unlink()
    assert len(load_images(pets)[0]) == 5


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "foreign"])
def test_a_damaged_cache_is_made_anew(pets, damage):
    before = load_images(pets)[0]
    path = cache_file()
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content = b""
    elif damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content = b"PK\x03\x04 something else"
    path.write_bytes(content)
    assert np.array_equal(load_images(pets)[0].images, before.images)
    with np.load(path) as arrays:  # and written whole again
        assert np.array_equal(arrays["train_images"], before.images)


@pytest.mark.usefixtures("own_cache")
def test_a_cache_without_all_its_arrays_is_made_anew(pets):
    before = load_images(pets)[0]
    with np.load(cache_file()) as arrays:
        kept = {name: arrays[name] for name in ("fingerprint", "test_images", "test_labels")}
    np.savez(cache_file(), **kept)
    assert np.array_equal(load_images(pets)[0].images, before.images)


def test_grey_images_become_rgb(pets):
    save(pets / "train" / "cat" / "0.png", 77, mode="L")
    assert load_images(pets)[0].images[0, 0, 0].tolist() == [77, 77, 77]


def missing_test(root):
    for path in sorted((root / "test").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "test").rmdir()


def empty_class(root):
    (root / "train" / "emu").mkdir()


def other_classes(root):
    save(root / "train" / "emu" / "0.png")
    save(root / "test" / "fox" / "0.png")


def text_as_image(root):
    (root / "test" / "dog" / "0.png").write_text("not a picture")


def cut_image(root):
    path = root / "test" / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:50])


def wrong_size(root):
    save(root / "train" / "dog" / "1.png", size=(28, 30))


def transparent(root):
    save(root / "train" / "dog" / "1.png", (1, 2, 3, 4), mode="RGBA")


def printing_colours(root):
    save(root / "train" / "dog" / "1.jpg", (1, 2, 3, 4), mode="CMYK")


def stray_file(root):
    (root / "train" / "dog" / "notes.txt").touch()


def file_for_class(root):
    (root / "train" / "notes.txt").touch()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (missing_test, FileNotFoundError, r"there is no folder '.*test': expected test/<class>"),
        (empty_class, ValueError, r"class folder '.*emu' is empty: add images or delete it"),
        (other_classes, ValueError, r"different classes \(only in train: emu; only in test: fox\)"),
        (text_as_image, ValueError, r"'.*test.dog.0\.png' cannot be read as an image .*: replace it"),
        (cut_image, ValueError, r"'.*test.dog.0\.png' cannot be read as an image"),
        (wrong_size, ValueError, r"'.*train.dog.1\.png' is 28x30 pixels: resize it to 32x32"),
        (transparent, ValueError, r"'.*train.dog.1\.png' is transparent: flatten it"),
        (printing_colours, ValueError, r"'.*train.dog.1\.jpg' has colour mode CMYK: convert it"),
        (stray_file, ValueError, r"'.*notes\.txt' is not one of \.jpg, \.jpeg, \.png: convert it"),
        (file_for_class, ValueError, r"'.*notes\.txt' is no class folder: move it away"),
    ],
)
def test_what_is_wrong_is_named(pets, spoil, error, message):
    spoil(pets)
    with pytest.raises(error, match=message):
        load_images(pets, verbose=False)


def test_a_folder_without_classes_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="holds no class folders: add one folder a class"):
        load_images(tmp_path)
