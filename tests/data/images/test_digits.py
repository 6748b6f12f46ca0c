import numpy as np
import pytest
from sklearn import datasets

from deqjax.data.images._image_sets import load_images

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def test_the_splits_hold_seventy_and_twice_fifteen_percent(digits):
    assert [len(digits.split(split)) for split in SPLITS] == [1259, 269, 269]


def test_every_image_is_in_one_split(digits):
    found = [digits.split(s)[i] for s in SPLITS for i in range(len(digits.split(s)))]
    keys = sorted((int(e.label), e.image.tobytes()) for e in found)
    original = datasets.load_digits()
    expected = sorted(
        (int(label), image.astype(np.uint8).tobytes())
        for label, image in zip(original.target, original.images, strict=True)
    )
    assert keys == expected


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_splits_are_stratified(digits, split):
    shares = [np.bincount(digits.split(s).labels) for s in ("train", split)]
    np.testing.assert_allclose(shares[1] / (1797 * 0.15), shares[0] / (1797 * 0.7), atol=0.003)


def test_images_have_seventeen_shades(digits):
    pixels = digits.train.images
    assert (pixels.dtype, pixels.shape[1:], pixels.min(), pixels.max()) == (
        np.uint8,
        (8, 8, 1),
        0,
        16,
    )


def test_the_choice_never_changes(digits):
    assert digits.test.labels[:12].tolist() == [5, 6, 2, 6, 5, 8, 7, 1, 8, 7, 0, 8]


def test_statistics_are_those_of_the_training_images(digits):
    pixels = (digits.train.images - digits.mean) / digits.std
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [0, 1], atol=1e-5)


def test_what_is_said_of_the_set_holds(digits):
    assert digits.task == "classification"
    assert digits.class_names == tuple("0123456789")
    assert digits.shape == digits.train[0].image.shape
    assert digits.mean.dtype == digits.std.dtype == np.float32


def test_another_resolution_scales_the_images():
    small = load_images("digits", resolution=4)
    assert small.shape == small.train[0].image.shape == (4, 4, 1)
