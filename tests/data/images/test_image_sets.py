import numpy as np
import pytest

from deqjax.data.images._image_sets import load_images


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        (
            "mnits",
            {},
            "no image data set 'mnits': choose one of digits, cifar10, .*, folder, or a name of T",
        ),
        ("folder", {}, "the data set 'folder' needs a folder of images: give its path"),
        ("digits", {"folder": "here"}, "'digits' takes no folder, got 'here': leave it out, or ch"),
        ("folder", {"folder": "x", "directory": "here"}, "'folder' takes no directory, got 'here'"),
        ("digits", {"directory": "here"}, "'digits' takes no directory, got 'here'"),
        (
            "cifar10",
            {"manual_directory": "here"},
            "'cifar10' takes no manual_directory, got 'here': leave it out, or choose one of imag",
        ),
        ("digits", {"resolution": 0}, "resolution must be at least 1 pixel, got 0"),
        ("digits", {"limit_train": 0}, "limit_train must lie in 1 to the 1259 training .* got 0"),
        ("digits", {"limit_train": 1260}, "limit_train must lie in 1 to the 1259 .* got 1260"),
        ("digits", {"limit_train": 9, "limit_seed": -1}, "limit_seed must be at least 0, got -1"),
    ],
)
def test_arguments_that_cannot_work_are_refused(name, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_images(name, **arguments)


def test_a_limit_keeps_balanced_training_images_and_all_others():
    limited = load_images("digits", limit_train=50)
    counts = np.bincount([int(limited.train[i].label) for i in range(50)])
    np.testing.assert_array_equal(counts, [5] * 10)
    assert (len(limited.train), len(limited.validation), len(limited.test)) == (50, 269, 269)


def test_the_limited_images_are_those_of_the_seed():
    first, again, other = (
        load_images("digits", limit_train=50, limit_seed=seed).train.indices for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_statistics_stay_those_of_all_training_images():
    limited, whole = load_images("digits", limit_train=10), load_images("digits")
    np.testing.assert_array_equal(limited.mean, whole.mean)


def test_the_identity_names_what_was_asked_for():
    asked = [{}, {"resolution": 4}, {"limit_train": 10}, {"limit_train": 10, "limit_seed": 1}]
    assert len({load_images("digits", **arguments).identity for arguments in asked}) == 4
