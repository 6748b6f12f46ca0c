import dataclasses

import numpy as np
import pytest

from deqjax.data import DataError
from deqjax.data.images._augmentation import (
    Augmentation,
    evaluation_transform,
    normalize,
    training_transform,
)
from image_samples import classification, numbered, segmentation


def sizes_differ():
    return dataclasses.replace(classification(), shape=(None, None, 3))


def apply(images, augmentation):
    return training_transform(images, augmentation)(images.train[2], np.random.default_rng(0))


def test_none_leaves_the_image_alone():
    images = classification()
    np.testing.assert_array_equal(apply(images, Augmentation()).image, images.train[2].image)


@pytest.mark.parametrize(
    ("augmentation", "shape"),
    [
        (Augmentation("crop_flip", padding=2), (6, 5, 3)),
        (Augmentation("resized_crop", size=4, shorter_side=5), (4, 4, 3)),
    ],
)
def test_images_get_the_size_that_the_kind_asks_for(augmentation, shape):
    assert apply(classification(), augmentation).image.shape == shape


def test_scenes_get_the_size_of_the_window_with_the_mean_color_outside():
    augmentation = Augmentation("joint_scale_crop", crop=(20, 30), scale=(1.0, 1.0))
    example = apply(segmentation(), augmentation)
    assert (example.image.shape, example.label.shape) == ((20, 30, 3), (20, 30))
    np.testing.assert_array_equal(example.image[example.label == 255], 100)


def test_evaluation_cuts_out_the_middle_where_training_cuts_out_parts():
    transform = evaluation_transform(
        classification(), Augmentation("resized_crop", size=4, shorter_side=5)
    )
    assert transform(numbered(3)[1]).image.shape == (4, 4, 3)


@pytest.mark.parametrize("kind", ["none", "crop_flip"])
def test_evaluation_leaves_other_images_alone(kind):
    example = numbered(3)[1]
    assert evaluation_transform(classification(), Augmentation(kind))(example) is example


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "flip"}, "kind must be 'none', 'crop_flip', 'resized_crop' or 'joint_.*'flip'"),
        ({"padding": -1}, "padding must be at least 0, got -1"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": 257}, "size must be at most shorter_side, got 257 and 256"),
        ({"crop": (0, 9)}, r"crop\[0\] must be at least 1, got 0"),
        ({"area": (0.5, 1.5)}, r"area\[1\] must be at most 1, got 1.5"),
        ({"aspect": (2.0, 0.5)}, r"aspect must be in ascending order, got \(2.0, 0.5\)"),
        ({"scale": (0.0, 1.0)}, r"scale\[0\] must be greater than 0, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        Augmentation(**arguments)


@pytest.mark.parametrize(
    ("images", "kind", "sentence"),
    [
        (
            classification,
            "joint_scale_crop",
            "'joint_scale_crop' is not made for classification, the task of 'numbered': choose one "
            "of none, crop_flip, resized_crop",
        ),
        (segmentation, "crop_flip", "not made for segmentation, .* one of none, joint_scale_crop"),
        (segmentation, "resized_crop", "not made for segmentation"),
        (sizes_differ, "none", "images of 'numbered' differ in size, .*: choose 'resized_crop'"),
        (sizes_differ, "crop_flip", "differ in size"),
    ],
)
@pytest.mark.parametrize("transform", [training_transform, evaluation_transform])
def test_an_augmentation_that_does_not_suit_is_refused(images, kind, sentence, transform):
    with pytest.raises(ValueError, match=sentence):
        transform(images(), Augmentation(kind))


def test_normalized_images_have_mean_zero_and_deviation_one():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 7, 3), dtype=np.uint8)
    mean = pixels.mean(axis=(0, 1, 2)).astype(np.float32)
    std = pixels.std(axis=(0, 1, 2)).astype(np.float32)
    found = normalize(pixels, mean, std)
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_normalizing_is_a_line_per_channel_in_float32():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(2, axis=-1)
    mean, std = np.array([3.0, 120.0], np.float32), np.array([2.0, 60.0], np.float32)
    found = normalize(pixels, mean, std)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (pixels - mean.astype(float)) / std, atol=3e-5)
