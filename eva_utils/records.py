"""What a training leaves on disk: its record, its weights and its figures."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import torch
import torchvision
from torch import nn

from eva_utils.checkpoint import save_json, save_weights
from eva_utils.history import History
from eva_utils.images import ImageSet
from eva_utils.predictions import Predictions, check_same_images
from eva_utils.runtime import device_name, device_of

RECORD = "record.json"
FIGURES = ("accuracy_loss.png", "misclassified.png")


def save_run(
    folder: str | Path,
    *,
    network: str,
    model: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    history: History,
    predictions: Predictions,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Write ``record.json``, ``weights.pt``, ``accuracy_loss.png`` and ``misclassified.png``; return the record.

    ``predictions`` are the trained model's of ``test_set``; ``settings`` (epochs, batch size, lr, seed, recipe in
    words) must be what JSON can hold. The weights are a state dict on the CPU, for
    ``torch.load(path, weights_only=True)``. Where no image is predicted wrong there is no ``misclassified.png``, and an
    older one is deleted. The record is written last: where there is one, the rest is whole and belongs to it. Before
    anything is written, raises ValueError where the history has fewer epochs than ``settings`` say, as one that was
    interrupted does, and for predictions of other images, and TypeError for settings that JSON cannot hold.
    """
    from eva_utils.plots import plot_history, plot_mistakes  # here, as matplotlib takes long to import

    if len(history) < settings.get("epochs", 0):
        raise ValueError(f"the history has {len(history)} of {settings['epochs']} epochs: let fit go on to the last")
    check_same_images(test_set, predictions)
    folder = Path(folder)
    record = {
        "network": network,
        "parameters": sum(p.numel() for p in model.parameters()),
        "images": test_set.name,
        "train_images": len(train_set),
        "test_images": len(test_set),
        "test_acc": predictions.accuracy,
        "test_loss": predictions.loss,
        "settings": settings,
        "seconds": sum(history.seconds),
        "device": device_name(device_of(model)),
        "versions": {
            "python": platform.python_version(),
            "albumentations": albumentations.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "history": asdict(history),
    }
    json.dumps(record)
    (folder / RECORD).unlink(missing_ok=True)
    save_weights(folder / "weights.pt", model)
    title = f"{network} on {test_set.name}"
    plot_history(history, title=title).savefig(folder / FIGURES[0], dpi=100)
    if predictions.accuracy < 1:
        plot_mistakes(test_set, predictions, title=title).savefig(folder / FIGURES[1], dpi=100)
    else:
        (folder / FIGURES[1]).unlink(missing_ok=True)
    save_json(folder / RECORD, record)
    return record
