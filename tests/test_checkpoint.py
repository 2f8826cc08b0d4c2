import os
import pickle

import pytest
import torch

from eva_utils.checkpoint import load_checkpoint, save_checkpoint


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
    with pytest.raises(ValueError, match=r"'run\.pt' is no readable checkpoint"):
        load_checkpoint("run.pt")
    assert not os.path.exists("evil")


@pytest.mark.parametrize("content", [b"", b"hello", "half"])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"weight": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000] if content == "half" else content)
    with pytest.raises(ValueError, match=r"run\.pt' is no readable checkpoint .*: delete it"):
        load_checkpoint(path)


def test_a_missing_file_and_one_that_holds_something_else_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "run.pt")
    torch.save([1, 2], tmp_path / "run.pt")
    with pytest.raises(ValueError, match="holds a list, no checkpoint"):
        load_checkpoint(tmp_path / "run.pt")
