import inspect

import albumentations as A
import numpy as np
import pytest
import torch

from eva_utils.loaders import augment
from eva_utils.transforms import CIFAR10_MEAN, CIFAR10_STD, course_policy, crop_policy, denormalize, eval_policy

OFF = {"flip": 0.0, "affine": 0.0, "dropout": 0.0}


def views(image, policy, count=50):
    return torch.stack([augment(image, policy, key=(0, epoch, 0)) for epoch in range(count)])


def test_eval_policy_normalises_and_nothing_else(grey_ramp):
    tensor = eval_policy()(image=grey_ramp)["image"]
    expected = (grey_ramp / 255 - CIFAR10_MEAN) / CIFAR10_STD
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("policy", [course_policy(**OFF), crop_policy(flip=0, padding=0, dropout=0)])
def test_policies_with_everything_off_only_normalise(grey_ramp, policy):
    assert torch.equal(augment(grey_ramp, policy, key=(0,)), eval_policy()(image=grey_ramp)["image"])


def test_denormalize_gives_the_pixels_back(grey_ramp):
    assert np.array_equal(denormalize(eval_policy()(image=grey_ramp)["image"]), grey_ramp)
    batch = torch.stack([eval_policy()(image=grey_ramp)["image"]] * 2)
    assert denormalize(batch).shape == (2, 32, 32, 3)


def test_flip_mirrors_half_of_the_images(grey_ramp):
    seen = denormalize(views(grey_ramp, course_policy(**{**OFF, "flip": 0.5}), 400))
    mirrored = (seen == grey_ramp[:, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (seen == grey_ramp).all(axis=(1, 2, 3))).all()
    assert 160 < mirrored.sum() < 240


@pytest.mark.parametrize("policy", [course_policy(**{**OFF, "dropout": 1}), crop_policy(flip=0, padding=0, dropout=1)])
def test_the_hole_is_16x16_anywhere_and_the_mean_is_nought(policy):
    seen = views(np.full((32, 32, 3), 255, np.uint8), policy)
    hole = seen[:, 0] < 1
    rows, columns = hole.any(2).float(), hole.any(1).float()
    assert hole.sum((1, 2)).tolist() == [16 * 16] * 50
    assert rows.sum(1).tolist() == columns.sum(1).tolist() == [16] * 50
    assert len(set(rows.argmax(1).tolist())) > 8
    assert len(set(columns.argmax(1).tolist())) > 8
    assert seen.permute(0, 2, 3, 1)[hole].abs().max() < 0.01  # less than half a grey level off


def test_affine_shifts_turns_and_scales_without_a_black_border():
    white = np.full((32, 32, 3), 250, np.uint8)
    policy = course_policy(**{**OFF, "affine": 1}, shift=0.2, scale=0.2, rotate=45)
    assert (denormalize(views(white, policy)) == 250).all()
    dot = np.zeros((32, 32, 3), np.uint8)
    dot[14:18, 14:18] = 255
    seen = denormalize(views(dot, course_policy(**{**OFF, "affine": 1}, shift=0.2, scale=0, rotate=0)))[..., 0]
    weight = seen.sum((1, 2))
    centre = (seen.sum(1) * np.arange(32)).sum(1) / weight
    assert centre.min() > 15.5 - 0.2 * 32 - 1
    assert centre.max() < 15.5 + 0.2 * 32 + 1
    assert np.ptp(centre) > 6


def test_crop_moves_the_image_by_whole_pixels(grey_ramp):
    padded = np.pad(grey_ramp, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = {padded[y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(9) for x in range(9)}
    seen = denormalize(views(grey_ramp, crop_policy(flip=0, dropout=0), 300))
    places = {windows[image.tobytes()] for image in seen}
    assert {y for y, _ in places} == {x for _, x in places} == set(range(9))


def test_grey_is_optional(grey_ramp):
    grey = denormalize(augment(grey_ramp, course_policy(**OFF, grey=1), key=(0,)))
    assert (grey == grey[..., :1]).all()
    assert not any(isinstance(step, A.ToGray) for step in course_policy())


def test_every_argument_of_the_transforms_is_a_current_one():
    """An argument that albumentations does not know is ignored with a warning; here warnings are errors."""
    for policy in (course_policy(grey=0.5), crop_policy(), eval_policy()):
        for step in policy:
            assert set(step.get_transform_init_args()) <= set(inspect.signature(type(step)).parameters)
    with pytest.raises(UserWarning, match="not valid"):
        A.CoarseDropout(max_holes=1)
