"""The real CIFAR-10 (once through JPEG), prepared without network where its images are at hand."""

import subprocess
import sys

import numpy as np
import pytest

from deqjax.data.images._augmentation import Augmentation
from deqjax.data.images._image_batches import image_evaluation_batches, image_train_batches
from deqjax.data.images._image_sets import load_images

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="session")
def directory(shared_data, tmp_path_factory):
    tool = shared_data.parent / "tools" / "prepare_cifar10.py"
    if not (shared_data / "cifar10_jpeg.npz").is_file() or not tool.is_file():
        pytest.skip("no shared/data/cifar10_jpeg.npz and the tool that prepares it")
    directory = tmp_path_factory.mktemp("cifar10")
    command = [sys.executable, str(tool), "--data-dir", str(directory)]
    subprocess.run(command, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def cifar10(directory):
    return load_images("cifar10", directory=directory)


def test_the_last_tenth_of_training_is_for_validation(cifar10):
    sizes = [len(cifar10.split(s)) for s in ("train", "validation", "test")]
    assert sizes == [45000, 5000, 10000]


def test_the_splits_share_no_image(cifar10):
    found = {
        split: {cifar10.split(split).source.records[i]["id"] for i in range(0, 5000, 5)}
        for split in ("train", "validation", "test")
    }
    assert [len(ids) for ids in found.values()] == [1000] * 3
    assert len(set.union(*found.values())) == 3000


def test_images_are_colored_and_of_ten_classes(cifar10):
    examples = [cifar10.test[i] for i in range(0, 10000, 25)]
    assert {(e.image.shape, str(e.image.dtype)) for e in examples} == {((32, 32, 3), "uint8")}
    assert {int(e.label) for e in examples} == set(range(10))
    assert list(cifar10.class_names) == NAMES


def test_the_published_statistics_hold(cifar10):
    batch = next(image_evaluation_batches(cifar10, "train", batch_size=2000, limit=1))
    np.testing.assert_allclose(batch.images.mean(axis=(0, 1, 2)), 0, atol=0.03)
    np.testing.assert_allclose(batch.images.std(axis=(0, 1, 2)), 1, atol=0.03)


def test_a_training_batch_is_normalized_and_has_every_class(cifar10):
    batch = next(
        image_train_batches(cifar10, batch_size=256, seed=0, augmentation=Augmentation("crop_flip"))
    )
    assert (batch.images.shape, batch.images.dtype) == ((256, 32, 32, 3), np.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((256,), np.int32)
    assert set(batch.labels.tolist()) == set(range(10))


def test_a_limit_balances_the_classes(directory):
    limited = load_images("cifar10", directory=directory, limit_train=200)
    counts = np.bincount([int(limited.train.label(i)) for i in range(200)])
    np.testing.assert_array_equal(counts, [20] * 10)


def test_a_resolution_scales_the_images(directory):
    small = load_images("cifar10", directory=directory, resolution=16)
    assert small.shape == small.train[5].image.shape == (16, 16, 3)


def test_missing_data_name_the_page(tmp_path):
    with pytest.raises(ValueError, match=r"downloads 162 MB from https://www.cs.toronto.edu/~kriz"):
        load_images("cifar10", directory=tmp_path)
