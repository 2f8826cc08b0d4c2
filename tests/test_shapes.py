import hashlib

import numpy as np
import pytest

from eva_utils.shapes import SHAPE_CLASSES, draw_shapes


def test_a_seed_gives_the_same_images_on_every_machine():
    images, labels = draw_shapes(300, seed=0)
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "0bf548b814709409"


def test_classes_are_equal_in_number_and_images_differ():
    images, labels = draw_shapes(300, seed=1)
    assert (images.shape, images.dtype, labels.dtype) == ((300, 32, 32, 3), np.uint8, np.int64)
    assert np.bincount(labels).tolist() == [30] * len(SHAPE_CLASSES)
    assert len(np.unique(images.reshape(300, -1), axis=0)) == 300
    assert not np.array_equal(images, draw_shapes(300, seed=2)[0])


def test_fewer_images_than_classes_are_refused():
    with pytest.raises(ValueError, match="count=9: expected 10 or more"):
        draw_shapes(9, seed=0)
