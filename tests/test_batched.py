"""The policy in batches against albumentations: same pixels for the same parameters, and the same laws."""

import random
from collections import Counter

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from scipy.stats import ks_2samp

from eva_utils.batched import BATCHED, BatchedPolicy
from eva_utils.transforms import course_policy, crop_policy, eval_policy

pytestmark = pytest.mark.filterwarnings("ignore:ShiftScaleRotate is a special case")

SQUARE, WIDE = (32, 32), (20, 28)
SHARP_LINES = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 8  # OpenCV 4 rounds places to 1/32 of a pixel
FREE_AFFINE = {
    "translate_percent": (-0.2, 0.3),
    "scale": {"x": (0.6, 1.4), "y": (0.8, 0.9)},
    "shear": {"x": (-20, 20), "y": (0, 9)},
    "rotate": (-180, 180),
}
OLD_NAME = {"shift_limit": 0.1, "scale_limit": (-0.3, 0.1), "rotate_limit": 20, "p": 0.9}

# name: (transforms, their largest difference in grey levels). White noise is the worst of images for interpolation.
POLICIES = {
    "flips": (lambda: [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.3)], 0),
    "pad-constant": (lambda: [A.Pad((3, 5, 2, 1), fill=(10, 250, 7)), A.RandomCrop(16, 17)], 0),
    "pad-reflect": (lambda: [A.Pad((3, 5), border_mode=cv2.BORDER_REFLECT), A.RandomCrop(16, 17)], 0),
    "pad-reflect-101": (lambda: [A.Pad(4, border_mode=cv2.BORDER_REFLECT_101), A.RandomCrop(20, 20)], 0),
    "pad-further-than-the-image": (lambda: [A.Pad(50, border_mode=cv2.BORDER_REFLECT_101), A.RandomCrop(90, 90)], 0),
    "pad-replicate": (lambda: [A.Pad(4, border_mode=cv2.BORDER_REPLICATE), A.RandomCrop(20, 20)], 0),
    "pad-wrap": (lambda: [A.Pad(4, border_mode=cv2.BORDER_WRAP), A.RandomCrop(20, 20)], 0),
    "pad-if-needed": (lambda: [A.PadIfNeeded(40, 31, fill=9), A.CenterCrop(30, 27)], 0),
    "pad-to-multiples": (lambda: [A.PadIfNeeded(None, None, 12, 10, position="top_left")], 0),
    "holes": (
        lambda: [A.CoarseDropout((1, 4), hole_height_range=(2, 9), hole_width_range=(0.1, 12), fill=(1, 2, 3))],
        0,
    ),
    "holes-in-shares": (lambda: [A.CoarseDropout((2, 4), (0.1, 0.3), (0.1, 0.7), fill=200, p=0.7)], 0),
    "grey": (lambda: [A.ToGray(p=0.5)], 0),
    "grey-average": (lambda: [A.ToGray(method="average", p=0.5)], 0),
    "grey-max": (lambda: [A.ToGray(method="max", p=0.5)], 0),
    "grey-desaturation": (lambda: [A.ToGray(method="desaturation", p=0.5)], 1),
    "colours": (
        lambda: [A.ColorJitter(brightness=(0.5, 1.6), contrast=(0.4, 1.5), saturation=(0, 1.8), hue=0, p=0.8)],
        2,  # a value cut one level lower may be stretched
    ),
    "grey-colours": (lambda: [A.ToGray(p=1), A.ColorJitter(hue=0, p=1), A.HorizontalFlip()], 2),
    "affine-constant": (lambda: [A.Affine(**FREE_AFFINE, fill=(100, 30, 240), p=0.8)], SHARP_LINES),
    "affine-replicate": (lambda: [A.Affine(**FREE_AFFINE, border_mode=cv2.BORDER_REPLICATE, p=1)], SHARP_LINES),
    "affine-reflect": (lambda: [A.Affine(**FREE_AFFINE, border_mode=cv2.BORDER_REFLECT, p=1)], SHARP_LINES),
    "affine-reflect-101": (lambda: [A.Affine(**FREE_AFFINE, border_mode=cv2.BORDER_REFLECT_101, p=1)], SHARP_LINES),
    "affine-pixels": (
        lambda: [A.Affine(translate_px={"x": (-3, 3), "y": 2}, scale=(0.9, 1.2), keep_ratio=True, balanced_scale=True)],
        SHARP_LINES,
    ),
    "shift-scale-rotate": (lambda: [A.ShiftScaleRotate(**OLD_NAME)], SHARP_LINES),
    "rotate": (lambda: [A.Rotate((-30, 10), p=0.5)], SHARP_LINES),
    "one-of": (
        lambda: [
            A.OneOf([A.HorizontalFlip(p=1), A.Sequential([A.VerticalFlip(p=0.5), A.ToGray(p=0.5)], p=0.5)], p=0.8),
            A.Compose([A.HorizontalFlip(p=0.4), A.NoOp()], p=0.6),
        ],
        0,
    ),
    "course": (lambda: course_policy(affine=1, dropout=0.7, grey=0.3).transforms[:-2], SHARP_LINES),
    "crop": (lambda: crop_policy(size=20, hole=8).transforms[:-2], 0),
    "square": (lambda: [A.RandomRotate90(p=0.8), A.Transpose(p=0.5)], 0),
}
TO_TENSOR = (A.Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), ToTensorV2())


def albumentations_own(policy, image, drawn, sample):
    """Apply the policy's transforms, albumentations' code, to one image with the parameters drawn for it."""
    for leaf, parameters in zip(policy.leaves, drawn, strict=True):
        if parameters["applied"][sample]:
            mine = {name: values[sample] for name, values in parameters.items()}
            known = {"shape": image.shape, "output_shape": image.shape[:2], "seed": 0}
            known |= dict.fromkeys(("x_min", "x_max", "y_min", "y_max"))  # Rotate's, for crop_border
            if isinstance(leaf.transform, A.Pad | A.CenterCrop):
                known |= leaf.transform.get_params_dependent_on_data({"shape": image.shape}, {})
            image = leaf.transform.apply(image, **(known | mine))
    return image


@pytest.mark.parametrize(
    ("name", "size"), [*((name, SQUARE) for name in POLICIES), *((name, WIDE) for name in POLICIES if name != "square")]
)
def test_the_same_parameters_give_albumentations_own_pixels(name, size):
    transforms, tolerance = POLICIES[name]
    policy = BatchedPolicy(A.Compose([*transforms(), *TO_TENSOR]), size)
    images = np.random.default_rng(7).integers(0, 256, (100, *size, 3), dtype=np.uint8)
    drawn = policy.draw(100, seed=1, epoch=2)
    samples = np.random.default_rng(8).permutation(100)[:60]
    batch = policy(torch.from_numpy(images[samples]).movedim(3, 1).contiguous(), drawn, samples)
    assert batch.dtype == torch.float32
    assert batch.shape == (60, 3, *policy.size)
    expected = torch.stack([albumentations_own(policy, images[i], drawn, i) for i in samples])
    assert (batch - expected).abs().max() * 255 <= tolerance + 1e-3
    assert len({float(image.sum()) for image in batch}) > 50


def own_draws(transform, size, count):
    """Let albumentations draw ``count`` times: {parameter: (count, ...)}."""
    transform.set_random_seed(11)
    shape = {"shape": (*size, 3)}
    draws = [transform.get_params() | transform.get_params_dependent_on_data(dict(shape), {}) for _ in range(count)]
    holes = [d.get("holes", np.zeros((0, 4), int)) for d in draws]
    most = max(map(len, holes))
    filled = np.array([np.concatenate([h, np.zeros((most - len(h), 4), int)]) for h in holes])
    return {"holes": filled} | {name: np.array([d[name] for d in draws]) for name in draws[0] if name != "holes"}


@pytest.mark.parametrize("name", POLICIES)
def test_parameters_follow_albumentations_laws(name):
    count, size = 20_000, SQUARE
    policy = BatchedPolicy(A.Compose([*POLICIES[name][0](), *TO_TENSOR]), SQUARE)
    for leaf, drawn in zip(policy.leaves, policy.draw(count, seed=0, epoch=0), strict=True):
        parameters = drawn.keys() - {"applied"}
        own = own_draws(leaf.transform, size, count) if parameters else {}
        for parameter in parameters:
            mine, theirs = (v[parameter].reshape(count, -1).astype(float).round(9) for v in (drawn, own))
            mixture = np.random.default_rng(5).normal(size=mine.shape[1])  # shows how the columns go together
            for a, b in [*zip(mine.T, theirs.T, strict=True), (mine @ mixture, theirs @ mixture)]:
                assert ks_2samp(a, b).pvalue > 1e-5, parameter
        size = leaf.step.size


@pytest.mark.parametrize("name", POLICIES)
def test_transforms_are_applied_as_often_as_albumentations_does(name):
    count = 4000
    compose = A.Compose([*POLICIES[name][0](), *TO_TENSOR], save_applied_params=True)
    compose.set_random_state(np.random.default_rng(3), random.Random(3))
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    together = Counter(
        tuple(sorted(applied for applied, _ in compose(image=image)["applied_transforms"])) for _ in range(count)
    )
    policy = BatchedPolicy(compose, SQUARE)
    names = [type(leaf.transform).__name__ for leaf in policy.leaves]
    applied = np.stack([drawn["applied"] for drawn in policy.draw(count, seed=0, epoch=0)], axis=1)
    mine = Counter(tuple(sorted(n for n, yes in zip(names, row, strict=True) if yes)) for row in applied)
    for combination in mine | together:
        assert abs(mine[combination] - together[combination]) < 5 * (2 * max(50, together[combination])) ** 0.5


def test_draws_depend_on_seed_epoch_and_sample_alone():
    policy = BatchedPolicy(course_policy(affine=1, dropout=1), SQUARE)

    def matrices(**key):
        return policy.draw(50, **key)[1]["matrix"]

    assert np.array_equal(matrices(seed=3, epoch=1), matrices(seed=3, epoch=1))
    others = [matrices(seed=3, epoch=1), matrices(seed=4, epoch=1), matrices(seed=3, epoch=2)]
    assert len(np.unique(np.concatenate(others), axis=0)) == 150


def test_every_transform_draws_for_itself():
    flip, _pad, _crop, hole, *_ = BatchedPolicy(crop_policy(), SQUARE).draw(20_000, seed=0, epoch=0)
    assert abs(np.corrcoef(flip["applied"], hole["applied"])[0, 1]) < 0.03
    assert abs(np.corrcoef(flip["applied"], hole["holes"][:, 0, 0])[0, 1]) < 0.03


def test_the_test_policy_draws_nothing():
    policy = BatchedPolicy(eval_policy(), WIDE)
    images = torch.randint(0, 256, (5, 3, *WIDE), dtype=torch.uint8)
    before = images.clone()
    out = policy(images, policy.draw(5, seed=0, epoch=0), np.arange(5))
    assert torch.equal(images, before)
    expected = [eval_policy()(image=image)["image"] for image in images.movedim(1, 3).numpy()]
    assert torch.allclose(out, torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (A.Posterize(), "Posterize cannot be run on whole batches: batched are Affine, CenterCrop"),
        (A.ColorJitter(), "hue=.-0.5, 0.5., batched is hue=0"),
        (A.OneOf([A.HorizontalFlip(), A.Blur()]), "Blur cannot be"),
        (A.SomeOf([A.HorizontalFlip(), A.VerticalFlip()], n=1), "SomeOf cannot be"),
        (A.Pad(4, p=0.5), "Pad cannot be run on whole batches: it changes the images' size or type"),
        (A.Sequential([A.RandomCrop(8, 8)], p=0.5), "RandomCrop .* its p must be 1"),
        (A.Normalize(p=0.5), "Normalize .* its p must be 1"),
        (A.Normalize(normalization="image"), "normalization='image'"),
        (A.Transpose(p=0.5), "Transpose .* its p must be 1"),
        (A.RandomRotate90(), "RandomRotate90 .* 20x28 it gives two sizes"),
        (A.RandomCrop(40, 20), "40x20 do not fit into 20x28; pad before it"),
        (A.PadIfNeeded(40, 40, position="random"), "position='random'"),
        (A.Affine(interpolation=cv2.INTER_CUBIC), "cv2.INTER_LINEAR alone"),
        (A.Affine(border_mode=cv2.BORDER_WRAP), "border_mode"),
        (A.Affine(fit_output=True), "fit_output=True"),
        (A.Rotate(crop_border=True), "crop_border=True"),
        (A.CoarseDropout(fill="random"), "fill='random'"),
        (A.ToGray(num_output_channels=1), "num_output_channels=1"),
        (A.ToGray(method="pca"), "method='pca'"),
    ],
)
def test_what_cannot_be_batched_is_refused_by_name_with_the_way_out(transform, says):
    with pytest.raises(ValueError, match=f"{says}.*make_loader\\(\\.\\.\\., fast=False\\)"):
        BatchedPolicy(A.Compose([transform, *TO_TENSOR]), WIDE)


def test_a_transform_of_ones_own_is_refused_even_if_it_is_made_from_a_known_one():
    class Mine(A.HorizontalFlip):
        def apply(self, img, **params):
            return img

    with pytest.raises(ValueError, match="Mine cannot be"):
        BatchedPolicy(A.Compose([Mine()]), SQUARE)


def test_each_batched_transform_is_tested():
    leaves = [leaf for make, _ in POLICIES.values() for leaf in make()]
    used = {type(t) for leaf in leaves for t in (leaf.transforms if isinstance(leaf, A.BaseCompose) else [leaf])}
    inner = {type(t) for make, _ in POLICIES.values() for leaf in make() if isinstance(leaf, A.OneOf) for t in leaf[1]}
    assert set(BATCHED) <= used | inner | {type(t) for t in TO_TENSOR}
