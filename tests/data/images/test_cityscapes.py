import numpy as np
import pytest

from deqjax.data.images._cityscapes import evaluated_classes
from deqjax.data.images._image_sets import load_images
from image_samples import cityscapes_example, encoded, write_prepared

# The published table: number in the files -> number in training.
TRAINED = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12},
    **{26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cityscapes")
    splits = {
        "train": [cityscapes_example(i) for i in range(40)],
        "validation": [cityscapes_example(i) for i in range(3)],
        "test": [cityscapes_example(9)],
    }
    write_prepared("cityscapes/semantic_segmentation", directory, splits)
    return directory


@pytest.fixture(scope="module")
def images(directory):
    return load_images("cityscapes", directory=directory)


def test_a_twentieth_is_held_out_and_the_published_validation_is_the_test(images):
    assert [len(images.split(s)) for s in ("train", "validation", "test")] == [38, 2, 3]


def test_all_numbers_of_the_files_become_classes_or_are_ignored():
    numbers = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = [TRAINED.get(number, 255) for number in range(256)]
    found = evaluated_classes(encoded(numbers))
    np.testing.assert_array_equal(found, np.array(expected, np.int32).reshape(16, 16), strict=True)


def test_nineteen_classes_have_names(images):
    assert len(images.class_names) == 19
    assert [images.class_names[i] for i in (0, 5, 13, 18)] == ["road", "pole", "car", "bicycle"]


def test_an_example_is_an_image_with_its_classes(images):
    example = images.test[0]
    rows = [TRAINED.get(number, 255) for number in range(16)]
    np.testing.assert_array_equal(example.label, np.repeat(np.array(rows)[:, None], 32, axis=1))
    assert (example.image.shape, example.image.dtype) == ((16, 32, 3), np.uint8)


def test_a_label_alone_is_that_of_the_example(images):
    np.testing.assert_array_equal(images.train.label(4), images.train[4].label, strict=True)


def test_the_task_ignores_a_label(images):
    assert (images.task, images.ignore_label, images.shape) == (
        "segmentation",
        255,
        (1024, 2048, 3),
    )


def test_a_resolution_scales_image_and_label(directory):
    small = load_images("cityscapes", directory=directory, resolution=8)
    example = small.test[0]
    assert small.shape == (8, 16, 3)
    assert (example.image.shape, example.label.shape) == ((8, 16, 3), (8, 16))
    # no class that was not there: labels are not mixed
    assert set(np.unique(example.label)) <= {0, 1, 2, 3, 4, 255}


def test_a_limit_keeps_some_training_images(directory):
    limited = load_images("cityscapes", directory=directory, limit_train=7)
    values = [int(limited.train[i].image[0, 0, 0]) for i in range(7)]
    assert (len(limited.train), len(set(values))) == (7, 7)


def test_missing_data_name_both_archives(tmp_path):
    sentence = "download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip .*cityscapes-data"
    with pytest.raises(ValueError, match=sentence):
        load_images("cityscapes", directory=tmp_path)
