import dataclasses
import json

import numpy as np
import pytest

from deqjax.data.images._augmentation import Augmentation
from deqjax.data.images._image_fingerprint import image_fingerprint
from deqjax.data.images._images import Subset
from image_samples import classification, numbered

SETTINGS = {"batch_size": 4, "seed": 0, "augmentation": Augmentation("crop_flip")}


def fingerprint(images=None, **changes):
    images = classification() if images is None else images
    return image_fingerprint(images, **{**SETTINGS, **changes})


def differences(changed):
    before = fingerprint()
    assert set(changed) == set(before)
    return {name for name in before if before[name] != changed[name]}


def test_a_fingerprint_names_what_decides_the_batches():
    found = fingerprint(augmentation=Augmentation("crop_flip", padding=2))
    assert (len(found["images"]), int(found.pop("images"), 16) > 0) == (16, True)
    assert found == {
        "version": 1,
        "name": "numbered",
        "identity": "numbered 1",
        "count": 23,
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "batch_size": 4,
        "seed": 0,
        "augmentation": {
            "kind": "crop_flip",
            "padding": 2,
            "size": 224,
            "shorter_side": 256,
            "area": [0.08, 1.0],
            "aspect": [0.75, 4 / 3],
            "crop": [512, 1024],
            "scale": [0.5, 2.0],
        },
        "workers": 0,
    }


def test_json_gives_an_equal_fingerprint_back():
    odd = dataclasses.replace(classification(), mean=np.array([0.1, 1 / 3, 1e-9], np.float32))
    assert json.loads(json.dumps(fingerprint(odd))) == fingerprint(odd)


def test_the_same_batches_have_the_same_fingerprint():
    assert fingerprint() == fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 8},
        {"seed": 1},
        {"augmentation": Augmentation("none")},
        {"augmentation": Augmentation("crop_flip", padding=3)},
        {"workers": 1},
    ],
)
def test_a_setting_changes_its_value_alone(change):
    assert differences(fingerprint(**change)) == set(change)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "others"},
        {"identity": "numbered 2"},
        {"mean": np.ones(3, np.float32)},
        {"std": np.full(3, 2.0, np.float32)},
    ],
)
def test_a_value_of_the_data_set_changes_alone(change):
    changed = fingerprint(dataclasses.replace(classification(), **change))
    assert differences(changed) == set(change)


def test_the_number_of_images_counts():
    fewer = fingerprint(dataclasses.replace(classification(), train=numbered(22)))
    assert differences(fewer) >= {"count"}


def test_the_order_of_the_images_counts():
    turned = Subset(numbered(23), np.arange(23)[::-1])
    changed = fingerprint(dataclasses.replace(classification(), train=turned))
    assert differences(changed) == {"images"}


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_changed_example_among_the_eight_counts(part):
    images = classification()
    getattr(images.train, part)[2] += 1  # 0, 2, 5, 8, ... are looked at
    assert differences(fingerprint(images)) == {"images"}


def test_other_splits_do_not_count():
    images = dataclasses.replace(classification(), test=numbered(5), validation=numbered(3))
    assert fingerprint(images) == fingerprint()


def test_a_few_images_are_enough():
    few = dataclasses.replace(classification(), train=numbered(3))
    assert fingerprint(few) != fingerprint()
