"""What is wrong gets an error that names the bad value and says what to do: over the whole public API."""

import dataclasses

import albumentations as A
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import eva_utils as eva
from eva_utils.download import download
from eva_utils.shapes import SHAPE_CLASSES

IMAGES = np.zeros((20, 32, 32, 3), np.uint8)
LABELS = np.repeat(np.arange(10), 2)
SET = eva.ImageSet(IMAGES, LABELS, SHAPE_CLASSES, "black")
MODEL = eva.build_network("dilated_net")
PREDICTIONS = eva.Predictions(torch.eye(10)[torch.arange(10)], torch.arange(10))
POLICY = eva.eval_policy()


def batches(images, labels):
    return DataLoader(TensorDataset(images, labels), batch_size=4)


GOOD = batches(torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64))
GOOD_HALVES = DataLoader(GOOD.dataset, batch_size=2)
PLATEAU = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD(MODEL.parameters(), lr=1))
SHORT = eva.one_cycle(torch.optim.SGD(MODEL.parameters(), lr=1), 3)


def fit(**arguments):
    loaders = arguments.pop("train_loader", GOOD), arguments.pop("test_loader", GOOD)
    return eva.fit(eva.build_network("dilated_net"), *loaders, verbose=False, **{"epochs": 1, **arguments})


def fit_here(optimizer=None, scheduler=None):
    """Train the shared model, whose optimizers are at hand."""
    return eva.fit(MODEL, GOOD_HALVES, GOOD, epochs=1, optimizer=optimizer, scheduler=scheduler, verbose=False)


def evaluate(images, labels, model=MODEL):
    return eva.evaluate(model, batches(images, labels))


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield X[0], Y[0]


TINY = eva.ImageSet(IMAGES[:, :8, :8], LABELS, SHAPE_CLASSES, "")

X, Y = torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)

CASES = {
    # images
    "float images": (lambda: eva.ImageSet(IMAGES / 1.0, LABELS, SHAPE_CLASSES, ""), "float64.*expected uint8"),
    "grey images": (
        lambda: eva.ImageSet(IMAGES[..., 0], LABELS, SHAPE_CLASSES, ""),
        r"\(20, 32, 32\): expected uint8 \(N",
    ),
    "float labels": (lambda: eva.ImageSet(IMAGES, LABELS / 1.0, SHAPE_CLASSES, ""), "float64.*expected int64"),
    "too few labels": (lambda: eva.ImageSet(IMAGES, LABELS[:3], SHAPE_CLASSES, ""), r"\(3,\): expected int64 \(20,\)"),
    "a label too many": (lambda: eva.ImageSet(IMAGES, LABELS + 1, SHAPE_CLASSES, ""), "label 10 .* expected 0 to 9"),
    "a negative label": (lambda: eva.ImageSet(IMAGES, LABELS - 1, SHAPE_CLASSES, ""), "label -1 .* expected 0 to 9"),
    "no such folder": (lambda: eva.load_images("/nowhere"), 'no folder .*/nowhere.*name "cifar10"'),
    "holding too many": (lambda: eva.hold_out(SET, 20), "count=20: expected a multiple of the 10 .*fewer than the 2"),
    "holding an odd number": (lambda: eva.hold_out(SET, 7), "count=7: expected a multiple of the 10 classes"),
    "holding nothing": (lambda: eva.hold_out(SET, 0), "count=0: expected a multiple"),
    # loaders
    "an empty set": (lambda: eva.make_loader(SET.subset(np.arange(0)), POLICY, batch_size=4), "empty: .* at least one"),
    "batches of none": (lambda: eva.make_loader(SET, POLICY, batch_size=0), "batch_size=0: expected 1 or more"),
    "workers below 0": (
        lambda: eva.make_loader(SET, POLICY, batch_size=4, workers=-1),
        "workers=-1: expected 0 or more",
    ),
    "a seed of a half": (
        lambda: eva.make_loader(SET, POLICY, batch_size=4, seed=0.5),
        r"seed=0\.5: expected 0 or more",
    ),
    "workers of a half": (lambda: eva.make_loader(SET, POLICY, batch_size=4, workers=1.5), r"workers=1\.5: expected 0"),
    "no policy": (
        lambda: eva.make_loader(SET, None, batch_size=4),
        "transform is a NoneType: expected a policy such as",
    ),
    "arrays for images": (
        lambda: eva.make_loader(IMAGES, POLICY, batch_size=4),
        "image_set is a ndarray: expected images",
    ),
    "a policy without tensors": (
        lambda: eva.make_loader(SET, A.Compose([A.HorizontalFlip()]), batch_size=4),
        r"the policy gives images uint8 \(32, 32, 3\): end it with A\.Normalize and ToTensorV2",
    ),
    "no deviation": (lambda: eva.eval_policy(std=(0, 1, 1)), r"std=\(0, 1, 1\): expected deviations above 0"),
    "images of no size": (
        lambda: eva.ImageSet(IMAGES[:, :0], LABELS, SHAPE_CLASSES, ""),
        r"\(20, 0, 32, 3\): expected uint8 \(N",
    ),
    "a number of a folder": (lambda: eva.load_images(5), 'source is a int: expected "cifar10", "shapes" or the path'),
    "holding in words": (lambda: eva.hold_out(SET, "10"), "count='10': expected 0 or more, a whole number"),
    "shapes in words": (lambda: eva.draw_shapes("20", seed=0), "count='20': expected 10 or more, a whole number"),
    # networks
    "no classes": (lambda: eva.build_network("dilated_net", num_classes=0), "num_classes=0: expected 1 or more"),
    "Muon backwards": (lambda: eva.Muon(MODEL.parameters(), lr=-1), "lr=-1: expected a number from 0"),
    "an unknown network": (lambda: eva.build_network("resnet"), "no network is called 'resnet': choose one of dilated"),
    "unknown weights": (lambda: eva.load_pretrained("vgg"), "no network is called 'vgg': choose one of"),
    # training
    "no epochs": (lambda: fit(epochs=0), "epochs=0: expected 1 or more"),
    "half an epoch": (lambda: fit(epochs=2.5), r"epochs=2\.5: expected 1 or more, a whole number"),
    "epochs in words": (lambda: fit(epochs="3"), "epochs='3': expected 1 or more, a whole number"),
    "an average in words": (lambda: fit(ema_decay="0.9"), "ema_decay='0.9': expected a number from 0 to 1"),
    "an average that stays": (lambda: fit(ema_decay=1), r"ema_decay=1: expected a share below 1, such as 0\.999"),
    "saving never": (lambda: fit(save_minutes=float("nan")), "save_minutes=nan: expected a number from 0"),
    "saving in words": (lambda: fit(save_minutes="5"), "save_minutes='5': expected a number from 0"),
    "a folder for the checkpoint": (lambda: fit(checkpoint="/"), "checkpoint='/' is no file: name a file, such as"),
    "no name for the checkpoint": (lambda: fit(checkpoint=""), "checkpoint='' is no file: name a file"),
    "a number for the checkpoint": (lambda: fit(checkpoint=5), "checkpoint is a int: expected a path"),
    "a list of batches": (
        lambda: fit(train_loader=[(X, Y)]),
        "train_loader is a list: expected a loader, such as make",
    ),
    "a set to train on": (lambda: fit(train_loader=SET), "train_loader is a ImageSet: expected a loader, such as"),
    "a hole larger than the first image": (
        lambda: eva.make_loader(TINY, eva.course_policy(dropout=1), batch_size=4),
        r"the policy fails on the first image of .* 8x8 .*: is a hole or a crop too large",
    ),
    "images without end": (
        lambda: fit(train_loader=DataLoader(Endless(), batch_size=4)),
        "train_loader has a dataset without a length: give its class a __len__",
    ),
    "a hole larger than the images": (
        lambda: eva.make_loader(TINY, eva.course_policy(dropout=0), batch_size=4, fast=True),
        "a hole's height of 16 pixels, but images of 8: choose a smaller hole",
    ),
    "no whole batch": (
        lambda: fit(train_loader=DataLoader(TensorDataset(X, Y), batch_size=9, drop_last=True)),
        "train_loader gives no batches: give it at least one image",
    ),
    "another network's optimizer": (
        lambda: fit(optimizer=torch.optim.SGD(MODEL.parameters(), lr=1)),
        r"optimizer holds no parameter of this model: make it anew from model\.parameters",
    ),
    "a schedule alone": (
        lambda: fit_here(scheduler=eva.one_cycle(torch.optim.SGD(MODEL.parameters(), lr=1), 9)),
        "scheduler belongs to another optimizer: hand in its own as optimizer=",
    ),
    "a schedule that waits for losses": (
        lambda: fit_here(PLATEAU.optimizer, PLATEAU),
        "ReduceLROnPlateau, which waits for losses: expected one",
    ),
    "a schedule that is too short": (
        lambda: fit_here(SHORT.optimizer, SHORT),
        "scheduler has 3 steps, but the epochs have 4",
    ),
    "a loss an image": (
        lambda: fit(loss_fn=nn.CrossEntropyLoss(reduction="none")),
        r"loss_fn gives a tensor \(4,\): expected one number, the mean",
    ),
    "a label that is passed over": (
        lambda: fit(train_loader=batches(X, Y - 100)),
        "labels go from -100 to -100, .* expected labels 0 to 9",
    ),
    "labels from 1": (lambda: fit(train_loader=batches(X, Y + 10)), "labels go from 10 .* expected labels 0 to 9"),
    "three parts": (
        lambda: fit(train_loader=DataLoader(TensorDataset(X, Y, Y), batch_size=2)),
        r"the loader gives 3 parts: expected pairs \(images, labels\)",
    ),
    "an unknown precision": (lambda: fit(precision="half"), "precision='half': choose one of float32"),
    "whole numbers as images": (
        lambda: fit(train_loader=batches(X.byte(), Y)),
        "torch.uint8.*expected normalised floats",
    ),
    "images without batch": (
        lambda: fit(train_loader=DataLoader(TensorDataset(X, Y), batch_size=None)),
        r"\(3, 32, 32\): expected normalised floats \(B",
    ),
    "arrays as images": (
        lambda: fit(train_loader=DataLoader(TensorDataset(X, Y), collate_fn=arrays)),
        "images ndarray: expected normalised",
    ),
    "float targets": (
        lambda: fit(train_loader=batches(X, Y.float())),
        r"labels torch.float32 .*expected torch.int64 \(4,\)",
    ),
    "one-hot targets": (lambda: fit(train_loader=batches(X, Y[:, None])), r"labels torch.int64 \(4, 1\): expected"),
    "steps below 1": (lambda: eva.one_cycle(torch.optim.SGD(MODEL.parameters(), lr=1), 0), "total_steps=0: expected 1"),
    "two and a half steps": (
        lambda: eva.one_cycle(torch.optim.SGD(MODEL.parameters(), lr=1), 2.5),
        "total_steps=2.5: expected 1 or more, a whole number",
    ),
    "a schedule of no optimizer": (lambda: eva.one_cycle(None, 10), "optimizer is a NoneType: expected one of torch"),
    "a warm-up in words": (
        lambda: eva.one_cycle(torch.optim.SGD(MODEL.parameters(), lr=1), 9, warmup="a"),
        "warmup='a': expected a share",
    ),
    "groups of no network": (lambda: eva.decay_groups(None, 0.1), "model is a NoneType: expected a network"),
    "no network at the identity": (lambda: eva.start_at_identity(None), "model is a NoneType: expected a network"),
    "warm-up of 2": (
        lambda: eva.one_cycle(torch.optim.SGD(MODEL.parameters(), lr=1), 9, warmup=2),
        "warmup=2: expected a share",
    ),
    "a seed below 0": (lambda: eva.seed_everything(-1), "seed=-1: expected a whole number from 0"),
    # evaluation
    "nothing to test": (lambda: eva.evaluate(MODEL, []), "no batches: it needs at least one image"),
    "test labels too high": (lambda: evaluate(X, Y + 10), "labels go from 10 to 10, .* expected labels 0 to 9"),
    "test labels below 0": (lambda: evaluate(X, Y - 1), "labels go from -1"),
    "test images of whole numbers": (lambda: evaluate(X.long(), Y), "torch.int64 .*expected normalised floats"),
    "test images without channels": (lambda: evaluate(X[:, 0], Y), r"\(4, 32, 32\): expected normalised floats"),
    "float test labels": (lambda: evaluate(X, Y.double()), "labels torch.float64"),
    "a map instead of logits": (
        lambda: evaluate(X, Y, nn.Conv2d(3, 10, 3)),
        r"gives \(4, 10, 30, 30\) for 4 images: expected logits \(4, classes\)",
    ),
    "logits and more": (lambda: evaluate(X, Y, Two()), r"gives a tuple: expected one tensor of logits"),
    "images of another size": (
        lambda: evaluate(X[..., :20], Y, Flat()),
        r"gives \(2, 960\) for 4 images: expected logits",
    ),
    "test images of one channel": (lambda: evaluate(X[:, :1], Y), r"\(4, 1, 32, 32\): expected normalised floats"),
    "outputs for other classes": (
        lambda: eva.evaluate(
            eva.build_network("dilated_net", num_classes=20), eva.make_loader(SET, POLICY, batch_size=4)
        ),
        "the network has 20 outputs for 10 classes: build it with num_classes=10",
    ),
    "test images that are no numbers": (
        lambda: evaluate(X * float("nan"), Y),
        "the logits of 4 images, the first at index 0, are not finite: look for weights or images",
    ),
    "a set to test on": (
        lambda: eva.evaluate(MODEL, SET),
        "the loader is a ImageSet: expected one such as make_loader",
    ),
    # results
    "float labels of predictions": (lambda: eva.Predictions(torch.zeros(4, 10), Y.float()), "expected torch.int64"),
    "pairs below 0": (lambda: PREDICTIONS.most_confused(-1), "count=-1: expected 1 or more"),
    "mistakes below 1": (lambda: eva.plot_mistakes(SET, PREDICTIONS, count=0), "count=0: expected 1 or more"),
    "no samples": (lambda: eva.plot_samples(SET, per_class=0), "per_class=0: expected 1 or more"),
    "predictions in another order": (
        lambda: eva.plot_mistakes(SET, eva.Predictions(torch.zeros(20, 10), torch.arange(20) % 10)),
        "labels are not those of .*20 images.*: predict the same images, unshuffled",
    ),
    "a history of words": (
        lambda: eva.History.from_lists({name: ["x"] for name in eva.history.LISTS}),
        r"train_loss is \['x'\]: expected a list of numbers",
    ),
    "logits of one image": (lambda: eva.Predictions(torch.zeros(10), Y), r"logits \(10,\) .*expected \(N, classes\)"),
    "more labels than logits": (lambda: eva.Predictions(torch.zeros(3, 10), Y), r"labels \(4,\): expected"),
    "no predictions": (lambda: eva.Predictions(torch.zeros(0, 10), Y[:0]), "N at least 1"),
    "no bins": (lambda: PREDICTIONS.calibration(0), "bins=0: expected 1 or more"),
    "a history of other lists": (lambda: eva.History.from_lists({"loss": []}), "expected the lists train_loss"),
    "a history of nothing": (lambda: eva.plot_history(eva.History()), "no epochs yet: train for at least one"),
    "no histories": (lambda: eva.plot_histories({}), "no history to draw"),
    "mistakes of another set": (
        lambda: eva.plot_mistakes(SET, PREDICTIONS),
        "10 predictions of .*20 images.*: predict the same",
    ),
    "no mistakes": (
        lambda: eva.plot_mistakes(SET.subset(np.arange(0, 20, 2)), PREDICTIONS),
        "no image is predicted wrong",
    ),
    "names for other classes": (lambda: eva.plot_confusion(PREDICTIONS, ("a",)), "1 class names for 10 classes"),
    "a class without samples": (lambda: eva.plot_samples(SET.subset(np.arange(2))), "has no images: nothing to show"),
    "maps of other images": (
        lambda: eva.plot_heat_maps(SET.subset(np.arange(0, 20, 2)), PREDICTIONS, [1], X[:2, 0], X[:2, 0]),
        "1 images, 2 and 2 maps: expected the same",
    ),
    # looking into networks
    "another number of channels": (
        lambda: eva.receptive_field(MODEL, (4, 32, 32)),
        r"Conv2d 'layers.0.0' cannot run on .*\(4, 32, 32\)",
    ),
    "an image of no size": (lambda: eva.receptive_field(MODEL, (3, 0, 32)), r"input_size=\(3, 0, 32\): expected"),
    "an unknown layer": (
        lambda: eva.measure_receptive_field(MODEL, layer="head"),
        "no layer 'head': choose one of layers",
    ),
    "a layer without a map": (
        lambda: eva.effective_receptive_field(MODEL, X, ""),
        "'' gives no map of the image: choose",
    ),
    "an unknown tier": (lambda: eva.check_assignment(MODEL, tier="gold"), "tier='gold': choose one of standard, bonus"),
    "percent": (lambda: eva.check_assignment(MODEL, 88), "accuracy=88: expected a number from 0 to 1"),
    "an accuracy in words": (lambda: eva.check_assignment(MODEL, "0.9"), "accuracy='0.9': expected a number"),
    "another library's policy": (
        lambda: eva.check_assignment(MODEL, transform=nn.ReLU()),
        "a ReLU: expected an albumentations.Compose",
    ),
    "classes of other images": (
        lambda: eva.grad_cam(MODEL, X, Y[:2]),
        r"classes \(2,\) of images \(4, 3, 32, 32\): expected one",
    ),
    "a class too high": (lambda: eva.grad_cam(MODEL, X, Y + 10), "classes from 10 to 10: expected 0 to 9"),
    "heat of an unknown layer": (lambda: eva.grad_cam(MODEL, X, Y, layer="x"), "no layer 'x': choose one of"),
    # files
    "no checkpoint": (lambda: eva.load_checkpoint("/nowhere.pt"), "no checkpoint '/nowhere.pt'"),
    "no Drive": (lambda: eva.on_drive("run.pt"), "not mounted at /content/drive.*drive.mount"),
    "nowhere to download from": (
        lambda: download([], eva.cache_folder() / "x", size=1, md5=""),
        "there is no place to try",
    ),
}


def arrays(_):
    return X.numpy(), Y


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return x.flatten(1), x


class Flat(Two):
    def forward(self, x):
        return x.reshape(2, -1)[:, :960]


def test_there_are_many():
    assert len(CASES) >= 50


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named_with_the_remedy(name):
    call, message = CASES[name]
    with pytest.raises((ValueError, FileNotFoundError, ConnectionError), match=f"(?s){message}"):
        call()


def test_evaluation_is_right_for_uneven_batches_and_leaves_the_mode(shapes):
    model = eva.build_network("dilated_net").train()
    whole = eva.make_loader(shapes, POLICY, batch_size=60, workers=0)
    uneven = eva.make_loader(shapes, POLICY, batch_size=7, workers=0)
    first, second = eva.evaluate(model, whole), eva.evaluate(model, uneven)
    assert first.loss == pytest.approx(second.loss, rel=1e-5)
    assert first.acc == second.acc
    assert model.training


def test_a_policy_of_another_size_is_named_by_the_network(shapes):
    small = dataclasses.replace(shapes, name="small")
    loader = eva.make_loader(
        small, A.Compose([A.Resize(16, 16), *eva.eval_policy().transforms]), batch_size=60, workers=0
    )
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        eva.evaluate(eva.build_network("dilated_separable_net"), loader)
