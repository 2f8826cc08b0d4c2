import os
import pickle

import numpy as np
import pytest
import torch

from eva_utils.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "new" / "folder" / "run.pt"
    save_checkpoint(path, {"weight": torch.arange(3), "epoch": 2, "history": {"loss": [0.5]}})
    state = load_checkpoint(path)
    assert state["weight"].tolist() == [0, 1, 2]
    assert (state["epoch"], state["history"]) == (2, {"loss": [0.5]})
    assert [*path.parent.iterdir()] == [path]


def test_a_failing_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_checkpoint(path, {"epoch": lambda: 2})
    assert load_checkpoint(path) == {"epoch": 1}
    assert [*tmp_path.iterdir()] == [path]


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "run.pt")
    with pytest.raises(ValueError, match=r"'run\.pt' is no readable checkpoint \(it holds posix\.mkdir, which is no"):
        load_checkpoint("run.pt")
    assert not os.path.exists("evil")


@pytest.mark.parametrize("content", [b"", b"hello", "half"])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"weight": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000] if content == "half" else content)
    with pytest.raises(ValueError, match=r"run\.pt' is no readable checkpoint .*: name another file"):
        load_checkpoint(path)


def test_a_missing_file_and_one_that_holds_something_else_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "run.pt")
    torch.save([1, 2], tmp_path / "run.pt")
    with pytest.raises(ValueError, match="holds a list, no checkpoint"):
        load_checkpoint(tmp_path / "run.pt")


def test_one_flipped_bit_is_found(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"weight": torch.zeros(1000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"no readable checkpoint \(BadZipFile: .*checksum"):
        load_checkpoint(path)


def test_numpys_values_are_read_back(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"lr": np.float64(0.5), "steps": [np.int64(3)], "values": (np.arange(3), np.bool_(True))})
    state = load_checkpoint(path)
    assert (state["lr"], state["steps"], state["values"][1]) == (0.5, [3], True)
    assert state["values"][0].tolist() == [0, 1, 2]


def test_paths_that_are_no_file_are_refused(tmp_path):
    for path in ("", tmp_path, "/", 5):
        with pytest.raises(ValueError, match=r"checkpoint(=.* is no file: name a file| is a int: expected a path)"):
            checkpoint_path(path)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert checkpoint_path(tmp_path / "link") == tmp_path / "real"
