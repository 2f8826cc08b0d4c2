import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import chain

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from eva_utils.images import ImageSet
from eva_utils.loaders import augment, make_loader
from eva_utils.transforms import course_policy, eval_policy

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores

COUNT = 64
ONE_PROCESS = pytest.mark.parametrize("kind", [{"workers": 0}, {"fast": True, "device": "cpu"}], ids=["plain", "fast"])


@pytest.fixture
def alike(grey_ramp) -> ImageSet:
    """The same image many times, so that augmentations can be told apart. The label is the index."""
    labels = np.arange(COUNT, dtype=np.int64)
    return ImageSet(np.stack([grey_ramp] * COUNT), labels, tuple(map(str, labels)), "alike")


def all_batches(loader, epochs):
    """Return the augmented images of some epochs as bytes, by (epoch, index)."""
    return {
        (epoch, int(label)): image.numpy().tobytes()
        for epoch in range(epochs)
        for images, labels in loader
        for image, label in zip(images, labels, strict=True)
    }


def repeats(seen):
    """Count the images that are pixel for pixel those of another sample or epoch."""
    return sum(count - 1 for count in Counter(seen.values()).values())


class PlainImages(Dataset):
    """What notebooks usually write around an albumentations pipeline."""

    def __init__(self, image_set, transform):
        self.image_set, self.transform = image_set, transform

    def __len__(self):
        return len(self.image_set)

    def __getitem__(self, index):
        return self.transform(image=self.image_set.images[index])["image"], self.image_set.labels[index]


@pytest.mark.parametrize("kind", [{"workers": 0}, {"workers": 2}, {"fast": True, "device": "cpu"}], ids=str)
def test_no_two_workers_and_no_two_epochs_draw_the_same(alike, kind):
    loader = make_loader(alike, course_policy(affine=1), batch_size=8, shuffle=True, **kind)
    seen = all_batches(loader, epochs=3)
    assert len(seen) == 3 * COUNT
    assert repeats(seen) == 0


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the fault needs forked workers")
def test_that_test_fails_with_a_plain_dataloader(alike):
    plain = DataLoader(PlainImages(alike, course_policy(affine=1)), batch_size=8, num_workers=2)
    assert repeats(all_batches(plain, epochs=3)) >= 2 * COUNT  # each epoch is the first one again


def test_a_seed_gives_the_same_batches_for_any_number_of_workers(alike):
    def run(workers, seed=3):
        loader = make_loader(alike, course_policy(), batch_size=10, shuffle=True, seed=seed, workers=workers)
        return [torch.cat([x.flatten(1), y[:, None]], dim=1) for _ in range(2) for x, y in loader]

    expected = run(0)
    for workers in (1, 2, 4):
        assert all(map(torch.equal, expected, run(workers)))
    assert not torch.equal(expected[0], run(0, seed=4)[0])


@ONE_PROCESS
def test_an_epoch_can_be_chosen(alike, kind):
    loader = make_loader(alike, course_policy(), batch_size=COUNT, shuffle=True, **kind)
    epochs = [next(iter(loader))[0] for _ in range(3)]
    loader.sampler.set_epoch(1)
    assert torch.equal(next(iter(loader))[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[1])


@ONE_PROCESS
def test_each_image_comes_once_and_the_last_batch_is_smaller(alike, kind):
    loader = make_loader(alike, eval_policy(), batch_size=10, shuffle=True, **kind)
    labels = [batch.tolist() for _, batch in loader]
    assert [len(batch) for batch in labels] == [10] * 6 + [4]
    order = [*chain(*labels)]
    assert sorted(order) == [*range(COUNT)]
    assert order != sorted(order)


@ONE_PROCESS
def test_without_shuffle_the_order_is_that_of_the_images(alike, kind):
    loader = make_loader(alike, eval_policy(), batch_size=10, **kind)
    assert torch.cat([labels for _, labels in loader]).tolist() == list(range(COUNT))


@ONE_PROCESS
def test_the_callers_transform_and_the_global_generators_are_left_alone(alike, kind):
    policy = course_policy()
    generator = policy.random_generator
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(make_loader(alike, policy, batch_size=8, shuffle=True, **kind)))
    assert policy.random_generator is generator
    assert torch.equal(torch.get_rng_state(), before)


def test_transforms_of_one_pipeline_draw_independently(grey_ramp):
    """With one seed for every transform, flip and grey would always come together."""
    policy = A.Compose([A.HorizontalFlip(p=0.5), A.ToGray(p=0.5)])
    met = Counter()
    for index in range(400):
        image = augment(grey_ramp, policy, key=(0, 0, index))
        grey = bool((image == image[..., :1]).all())
        unflipped = A.Compose([A.ToGray(p=float(grey))])(image=grey_ramp)["image"]
        met[grey, np.array_equal(image, unflipped)] += 1
    assert len(met) == 4
    assert min(met.values()) > 60


def test_the_fast_loader_gives_the_same_batches_for_a_seed_wherever_it_starts(alike):
    def batches(seed, start=0):
        loader = make_loader(alike, course_policy(), batch_size=10, shuffle=True, seed=seed, fast=True, device="cpu")
        loader.sampler.set_epoch(5, start=start)
        return [*loader]

    for (images, labels), (others, their_labels) in zip(batches(3)[2:], batches(3, start=20), strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, their_labels)
    assert not torch.equal(batches(3)[0][0], batches(4)[0][0])


def test_the_fast_loader_does_not_depend_on_how_many_images_it_augments_at_once(alike, monkeypatch):
    monkeypatch.setattr("eva_utils.loaders.CPU_CHUNK", 1)
    single = [*make_loader(alike, course_policy(), batch_size=10, shuffle=True, fast=True, device="cpu")]
    monkeypatch.setattr("eva_utils.loaders.CPU_CHUNK", 35)
    for (images, labels), (others, their_labels) in zip(
        single, make_loader(alike, course_policy(), batch_size=10, shuffle=True, fast=True, device="cpu"), strict=True
    ):
        assert torch.equal(images, others)
        assert torch.equal(labels, their_labels)


def test_both_loaders_give_the_same_test_images(shapes):
    plain = make_loader(shapes, eval_policy(), batch_size=25, workers=0)
    fast = make_loader(shapes, eval_policy(), batch_size=25, fast=True, device="cpu")
    assert len(plain) == len(fast) == 3
    for (images, labels), (others, their_labels) in zip(plain, fast, strict=True):
        assert torch.allclose(images, others, atol=1e-6)
        assert torch.equal(labels, their_labels)


ABANDONED = """
import multiprocessing, os, signal, sys, time
import torch
import eva_utils as eva
from eva_utils.shapes import SHAPE_CLASSES, draw_shapes

main, start = os.getpid(), multiprocessing.process.BaseProcess.start

def start_and_die(worker):
    start(worker)
    print("started", flush=True)
    if worker.name.endswith(sys.argv[1]):
        os.kill(main, signal.SIGKILL)

def wait_for_it(_):  # in place of what each worker calls first
    while os.getppid() == main:
        time.sleep(0.01)

multiprocessing.process.BaseProcess.start, torch.set_num_threads = start_and_die, wait_for_it
images = eva.ImageSet(*draw_shapes(10, seed=0), SHAPE_CLASSES, "shapes")
next(iter(eva.make_loader(images, eva.eval_policy(), batch_size=5, workers=int(sys.argv[1]))))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_end_with_the_main_process_even_one_killed_while_they_start(workers):
    command = [sys.executable, "-W", "ignore", "-c", ABANDONED, str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as main:
        try:
            printed, _ = main.communicate(timeout=300)  # to its end: as long as a worker lives, it holds the pipe
        except subprocess.TimeoutExpired:
            os.killpg(main.pid, signal.SIGKILL)
            raise
    assert printed == "started\n" * workers
    assert main.returncode == -signal.SIGKILL


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
def test_workers_follow_the_cores(alike, monkeypatch, cores):
    monkeypatch.setattr("eva_utils.loaders.usable_cores", lambda: cores)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    loader = make_loader(alike, eval_policy(), batch_size=8)  # torch warns of more workers than cores
    assert loader.num_workers == min(cores, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: expected 1 or more"),
        ({"batch_size": 8, "workers": -1}, "workers=-1: expected 0 or more, a whole number"),
        ({"batch_size": 8, "workers": 2, "fast": True}, "workers=2 with fast=True: .* leave them out"),
        ({"batch_size": 8, "device": "cuda"}, "device='cuda' without fast=True: leave it out"),
    ],
)
def test_bad_arguments_are_named(alike, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_loader(alike, eval_policy(), **arguments)


def test_an_empty_set_is_refused(alike):
    empty = alike.subset(np.arange(0))
    with pytest.raises(ValueError, match=r"0 images .* is empty: a loader needs at least one"):
        make_loader(empty, eval_policy(), batch_size=8)
