import dataclasses

import numpy as np
import pytest

from deqjax.data._image_fingerprint import image_fingerprint
from deqjax.data._images import Subset
from deqjax.data.augmentation import Augmentation
from image_samples import classification, numbered

SETTINGS = {"batch_size": 4, "seed": 0, "augmentation": Augmentation("crop_flip")}


def fingerprint(images=None, **changes):
    images = classification() if images is None else images
    return image_fingerprint(images, **{**SETTINGS, **changes})


def test_a_fingerprint_is_sixteen_hexadecimal_digits():
    assert len(fingerprint()) == 16
    assert int(fingerprint(), 16) >= 0


def test_the_same_batches_have_the_same_fingerprint():
    assert fingerprint() == fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 8},
        {"seed": 1},
        {"augmentation": Augmentation("none")},
        {"augmentation": Augmentation("crop_flip", padding=3)},
        {"process_count": 2},
        {"workers": 1},
    ],
)
def test_every_setting_counts(change):
    assert fingerprint(**change) != fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "others"},
        {"identity": "numbered 2"},
        {"mean": np.ones(3, np.float32)},
        {"std": np.full(3, 2.0, np.float32)},
        {"train": numbered(22)},
        {"train": Subset(numbered(23), np.arange(23)[::-1])},
    ],
)
def test_everything_about_the_data_set_counts(change):
    assert fingerprint(dataclasses.replace(classification(), **change)) != fingerprint()


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_changed_example_among_the_eight_counts(part):
    images = classification()
    getattr(images.train, part)[2] += 1  # 0, 2, 5, 8, ... are looked at
    assert fingerprint(images) != fingerprint()


def test_other_splits_do_not_count():
    images = dataclasses.replace(classification(), test=numbered(5), validation=numbered(3))
    assert fingerprint(images) == fingerprint()


def test_a_few_images_are_enough():
    few = dataclasses.replace(classification(), train=numbered(3))
    assert fingerprint(few) != fingerprint()
