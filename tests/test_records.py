import errno
import json
import os

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from eva_utils.history import Evaluation, History
from eva_utils.loaders import make_loader
from eva_utils.models import build_network
from eva_utils.predictions import Predictions, predict
from eva_utils.records import FIGURES, save_run
from eva_utils.transforms import eval_policy


def test_a_perfect_run_is_kept_too(shapes, tmp_path):
    (tmp_path / "misclassified.png").write_text("an older run's")
    history = History()
    history.append(Evaluation(0.0, 1.0), Evaluation(0.0, 1.0), lr=0.1, seconds=3.0, images_per_second=40.0)
    labels = torch.from_numpy(shapes.labels)
    record = save_run(
        tmp_path,
        network="dilated_net",
        model=build_network("dilated_net"),
        train_set=shapes,
        test_set=shapes,
        history=history,
        predictions=Predictions(torch.eye(10)[labels] * 9, labels),
        settings={},
    )
    assert record["test_acc"] == 1
    assert not (tmp_path / "misclassified.png").exists()


def test_predictions_of_other_images_are_no_record(shapes, tmp_path):
    labels = torch.from_numpy(shapes.labels)
    parts = {"network": "dilated_net", "model": build_network("dilated_net"), "train_set": shapes, "history": History()}
    parts |= {"predictions": Predictions(torch.eye(10)[labels] * 9, labels), "settings": {}}
    with pytest.raises(ValueError, match=r"60 predictions of ImageSet.* 59 images .*: predict the same images"):
        save_run(tmp_path / "run", **parts, test_set=shapes.subset(np.arange(59)))
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_interrupted_is_not_kept_as_a_whole_one(shapes, tmp_path):
    labels = torch.from_numpy(shapes.labels)
    parts = {"network": "dilated_net", "model": build_network("dilated_net"), "train_set": shapes, "test_set": shapes}
    parts |= {"history": History(), "predictions": Predictions(torch.eye(10)[labels], labels)}
    with pytest.raises(ValueError, match="the history has 0 of 2 epochs: let fit go on to the last"):
        save_run(tmp_path / "run", **parts, settings={"epochs": 2})
    assert not (tmp_path / "run").exists()


def disk_is_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_record_is_there_only_where_the_rest_belongs_to_it(shapes, tmp_path, monkeypatch):
    labels, history = torch.from_numpy(shapes.labels), History()
    history.append(Evaluation(2.0, 0.1), Evaluation(1.5, 0.2), lr=0.1, seconds=3.0, images_per_second=40.0)
    parts = {"network": "dilated_net", "model": build_network("dilated_net"), "train_set": shapes, "test_set": shapes}
    parts |= {"history": history, "predictions": Predictions(torch.randn(60, 10), labels)}
    save_run(tmp_path, **parts, settings={})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_run(tmp_path, **parts, settings={"out": tmp_path})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.setattr(Figure, "savefig", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        save_run(tmp_path, **parts | {"model": build_network("dilated_net")}, settings={})
    assert not (tmp_path / "record.json").exists()
    assert (tmp_path / "weights.pt").read_bytes() != before[tmp_path / "weights.pt"]


def test_a_run_is_kept_whole(shapes, tmp_path):
    model = build_network("dilated_net").to(memory_format=torch.channels_last)
    history = History()
    history.append(Evaluation(2.0, 0.1), Evaluation(1.5, 0.2), lr=0.1, seconds=3.0, images_per_second=40.0)
    predictions = predict(model, make_loader(shapes, eval_policy(), batch_size=20, workers=0))
    record = save_run(
        tmp_path / "run",
        network="dilated_net",
        model=model,
        train_set=shapes,
        test_set=shapes,
        history=history,
        predictions=predictions,
        settings={"epochs": 1, "lr": 0.1},
    )
    assert json.loads((tmp_path / "run" / "record.json").read_text()) == record
    assert (record["parameters"], record["images"], record["train_images"]) == (98_180, "shapes", 60)
    assert (record["test_acc"], record["test_loss"]) == (predictions.accuracy, predictions.loss)
    assert (record["seconds"], record["history"]["test_acc"]) == (3.0, [0.2])
    assert record["versions"]["torch"] == torch.__version__
    weights = torch.load(tmp_path / "run" / "weights.pt", weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    for name in FIGURES:
        with Image.open(tmp_path / "run" / name) as figure:
            assert min(figure.size) >= 400
