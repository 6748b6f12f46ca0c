import math

import numpy as np
import pytest
from PIL import Image

from deqjax.data.images._crops import center_crop, crop_and_flip, joint_scale_crop, resized_crop
from deqjax.data.images._images import ImageExample
from deqjax.data.images._resize import scaled_labels

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(1, 256, (9, 7, 3), dtype=np.uint8)
LABEL = np.asarray(3, np.int32)
ALL = {"area": (1.0, 1.0), "aspect": (1.0, 1.0)}


def bilinear(image, height, width):
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def draws(function, example, count=200, **options):
    return [function(example, np.random.default_rng(seed), **options) for seed in range(count)]


def mirrored(pixels):
    return pixels[:, ::-1]


# crop_and_flip


@pytest.mark.parametrize("padding", [0, 1, 4, 20])
def test_a_padded_crop_is_a_window_of_the_padded_image_or_its_mirror_image(padding):
    frame = np.pad(IMAGE, ((padding, padding), (padding, padding), (0, 0)))
    windows = {
        window.tobytes()
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        for part in [frame[top : top + 9, left : left + 7]]
        for window in (part, np.ascontiguousarray(mirrored(part)))
    }
    found = {
        e.image.tobytes() for e in draws(crop_and_flip, ImageExample(IMAGE, LABEL), padding=padding)
    }
    assert found <= windows


def test_every_window_and_both_mirror_images_are_drawn():
    found = {e.image.tobytes() for e in draws(crop_and_flip, ImageExample(IMAGE, LABEL), padding=1)}
    assert len(found) == 2 * 9


def test_a_crop_keeps_label_shape_and_source():
    before = IMAGE.copy()
    example = crop_and_flip(ImageExample(IMAGE, LABEL), np.random.default_rng(0), padding=4)
    assert (example.label, example.image.shape, example.image.dtype) == (3, (9, 7, 3), np.uint8)
    np.testing.assert_array_equal(IMAGE, before)


def test_the_same_generator_draws_the_same():
    first, second = (
        crop_and_flip(ImageExample(IMAGE, LABEL), np.random.default_rng(7), padding=4)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.image, second.image)


# resized_crop


def test_the_whole_of_a_square_image_is_only_scaled_and_mirrored():
    square = IMAGE[:7]
    expected = bilinear(square, 4, 4)
    found = draws(resized_crop, ImageExample(square, LABEL), 20, size=4, **ALL)
    both = {expected.tobytes(), np.ascontiguousarray(mirrored(expected)).tobytes()}
    assert {e.image.tobytes() for e in found} == both


def coordinates(height, width):
    """An image that tells in every pixel where it was."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def parts(area, aspect, height=200, width=250, count=400):
    """Height and width of the parts drawn, measured between the corners' pixels.

    Scaled to n pixels, the outermost two lie (n - 1) / n of the part's side apart.
    """
    example = ImageExample(coordinates(height, width), LABEL)
    found = draws(resized_crop, example, count, size=16, area=area, aspect=aspect)
    corners = np.array([(e.image[0, 0], e.image[-1, -1]) for e in found], float)
    return np.abs(corners[:, 1, :2] - corners[:, 0, :2]).T * 16 / 15


def test_the_area_is_uniform_within_its_bounds():
    heights, widths = parts(area=(0.1, 0.5), aspect=(0.8, 1.25))
    shares = heights * widths / (200 * 250)
    assert (0.09 < shares.min() < 0.13, 0.46 < shares.max() < 0.52) == (True, True)
    assert abs(shares.mean() - 0.3) < 4 * 0.4 / math.sqrt(12 * 400)


def test_the_aspect_ratio_is_uniform_in_its_logarithm():
    heights, widths = parts(area=(0.2, 0.3), aspect=(0.5, 2.0))
    logarithms = np.log2(widths / heights)
    assert (-1.05 < logarithms.min() < -0.9, 0.9 < logarithms.max() < 1.05) == (True, True)
    assert abs(logarithms.mean()) < 4 * 2 / math.sqrt(12 * 400)


def test_the_place_covers_the_image():
    example = ImageExample(coordinates(200, 250), LABEL)
    found = draws(resized_crop, example, 300, size=16, area=(0.05, 0.1), aspect=(0.9, 1.1))
    corners = np.array([e.image.reshape(-1, 3) for e in found])
    assert corners[..., 0].min() < 8
    assert corners[..., 0].max() > 192
    assert corners[..., 1].min() < 8
    assert corners[..., 1].max() > 242


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10)])
def test_where_no_part_fits_the_middle_is_taken(height, width):
    example = ImageExample(coordinates(height, width), LABEL)
    found = resized_crop(
        example, np.random.default_rng(0), size=5, area=(1.0, 1.0), aspect=(0.5, 2.0)
    )
    # the largest part with an allowed ratio is 20 by 10, in the middle
    long_axis = int(width > height)
    positions = found.image[..., long_axis].astype(float)
    assert abs(positions.mean() - 49.5) < 0.6
    assert abs((positions.max() - positions.min()) * 5 / 4 - 20) < 1.1


def test_a_single_pixel_can_be_cropped():
    pixel = ImageExample(np.full((1, 1, 3), 9, np.uint8), LABEL)
    found = resized_crop(
        pixel, np.random.default_rng(0), size=3, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)
    )
    np.testing.assert_array_equal(found.image, np.full((3, 3, 3), 9))


# center_crop


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (33, 33), (20, 90)])
def test_the_middle_is_that_of_the_whole_scaled_image(height, width):
    image = GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8)
    scaled = (
        (32, round(width * 32 / height)) if height <= width else (round(height * 32 / width), 32)
    )
    top, left = (scaled[0] - 28) // 2, (scaled[1] - 28) // 2
    expected = bilinear(image, *scaled)[top : top + 28, left : left + 28]
    found = center_crop(ImageExample(image, LABEL), size=28, shorter_side=32).image
    # Pillow rounds the filter's weights to integers
    np.testing.assert_allclose(found.astype(int), expected, atol=1)


# joint_scale_crop

STREET = GENERATOR.integers(0, 200, (24, 32, 3), dtype=np.uint8)
CLASSES = GENERATOR.integers(0, 19, (24, 32)).astype(np.int32)
FILL = np.array([250, 251, 252], np.uint8)
SCENE = ImageExample(STREET, CLASSES)


def joint(example=SCENE, count=60, crop=(8, 10), scale=(1.0, 1.0)):
    return draws(
        joint_scale_crop, example, count, crop=crop, scale=scale, fill=FILL, ignore_label=255
    )


def test_a_window_of_the_unscaled_scene_is_cut_from_both_alike():
    windows = {}
    for top in range(24 - 8 + 1):
        for left in range(32 - 10 + 1):
            for turn in (np.asarray, mirrored):
                image, label = (
                    np.ascontiguousarray(turn(pixels[top : top + 8, left : left + 10]))
                    for pixels in SCENE
                )
                windows[image.tobytes()] = label.tobytes()
    found = joint()
    assert all(windows[e.image.tobytes()] == e.label.tobytes() for e in found)
    assert len({e.image.tobytes() for e in found}) > 40


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 2.0])
def test_a_scaled_window_is_a_crop_of_the_scaled_scene(factor):
    size = round(24 * factor), round(32 * factor)
    image = bilinear(STREET, *size).astype(int)
    label = scaled_labels(CLASSES, size)
    for example in joint(count=20, scale=(factor, factor)):
        # Pillow rounds its weights and the result of each direction
        matches = [
            (top, left)
            for turn in (np.asarray, mirrored)
            for top in range(size[0] - 8 + 1)
            for left in range(size[1] - 10 + 1)
            if np.array_equal(turn(label[top : top + 8, left : left + 10]), example.label)
            and np.abs(turn(image[top : top + 8, left : left + 10]) - example.image).max() <= 2
        ]
        assert len(matches) == 1


def test_what_lies_outside_has_the_fill_color_and_the_ignored_label():
    for example in joint(crop=(40, 50)):
        outside = example.label == 255
        assert outside.sum() == 40 * 50 - 24 * 32
        np.testing.assert_array_equal(outside, (example.image == FILL).all(axis=-1))


def test_a_smaller_scene_lies_whole_in_its_window():
    for example in joint(crop=(40, 50)):
        inside = example.label != 255
        found = example.label[inside].reshape(24, 32)
        assert np.array_equal(found, CLASSES) or np.array_equal(found, mirrored(CLASSES))


def test_a_smaller_scene_lies_anywhere_in_its_window():
    places = {tuple(np.argwhere(e.label != 255)[0]) for e in joint(crop=(26, 33), count=100)}
    assert places == {(row, column) for row in range(3) for column in range(2)}


def test_a_window_can_be_larger_in_one_direction_only():
    for example in joint(crop=(40, 10)):
        assert (example.label != 255).sum() == 24 * 10


def test_the_scale_is_uniform_within_its_bounds():
    sizes = np.array(
        [
            (e.label != 255).any(axis=0).sum() / 32
            for e in joint(crop=(60, 70), scale=(0.5, 2.0), count=300)
        ]
    )
    assert (0.45 < sizes.min() < 0.55, 1.9 < sizes.max() < 2.05) == (True, True)
    assert abs(sizes.mean() - 1.25) < 4 * 1.5 / math.sqrt(12 * 300)


def test_types_and_shapes_are_kept():
    example = joint(count=1, scale=(0.5, 2.0))[0]
    assert (example.image.shape, example.image.dtype) == ((8, 10, 3), np.uint8)
    assert (example.label.shape, example.label.dtype) == ((8, 10), np.int32)
