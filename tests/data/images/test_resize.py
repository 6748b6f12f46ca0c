import math
from fractions import Fraction

import numpy as np
import pytest

from deqjax.data.images._resize import (
    resize_image,
    scaled_image,
    scaled_labels,
    scaled_to_shorter_side,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def test_an_image_of_its_own_size_stays_the_same():
    np.testing.assert_array_equal(resize_image(PIXELS, 7, 5), PIXELS, strict=True)


def test_halving_averages_without_aliasing():
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    halved = resize_image(stripes, 4, 32)
    np.testing.assert_allclose(halved[:, 1:-1], 100, atol=1)


def test_doubling_is_bilinear():
    ramp = np.repeat(np.array([[0], [100]], np.uint8)[..., None], 3, axis=-1)  # two rows
    np.testing.assert_array_equal(resize_image(ramp, 4, 1)[:, 0, 0], [0, 25, 75, 100])


def test_one_channel_stays_one():
    assert resize_image(PIXELS[..., :1], 3, 4).shape == (3, 4, 1)


def test_a_box_of_whole_pixels_is_a_crop():
    crop = resize_image(PIXELS, 4, 3, (1, 2, 4, 6))
    np.testing.assert_array_equal(crop, PIXELS[2:6, 1:4])


@pytest.mark.parametrize("size", [(7, 5), (14, 10), (3, 2), (9, 4), (1, 1)])
def test_labels_take_the_nearest_neighbor(size):
    labels = PIXELS[..., 0].astype(np.int32)
    expected = np.empty(size, np.int32)
    for row in range(size[0]):
        for column in range(size[1]):
            source = (
                Fraction(2 * row + 1, 2 * size[0]) * 7,
                Fraction(2 * column + 1, 2 * size[1]) * 5,
            )
            expected[row, column] = labels[math.floor(source[0]), math.floor(source[1])]
    np.testing.assert_array_equal(scaled_labels(labels, size), expected, strict=True)


@pytest.mark.parametrize("size", [(70, 50), (9, 13), (4, 3)])
def test_a_part_of_the_scaled_is_cut_from_the_whole_scaled(size):
    labels = PIXELS[..., 0].astype(np.int32)
    part = (1, 0, size[0] - 2, size[1] - 1)
    window = np.s_[1 : size[0] - 1, : size[1] - 1]
    whole = resize_image(PIXELS, *size).astype(int)
    # Pillow rounds its weights and the result of each direction
    np.testing.assert_allclose(scaled_image(PIXELS, size, part).astype(int), whole[window], atol=2)
    np.testing.assert_array_equal(
        scaled_labels(labels, size, part), scaled_labels(labels, size)[window]
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1024, 2048), (128, 256)),
        ((500, 375), (171, 128)),
        ((7, 7), (128, 128)),
        ((9, 7), (165, 128)),
    ],
)
def test_the_shorter_side_gets_the_wanted_length(shape, expected):
    assert scaled_to_shorter_side(*shape, 128) == expected
