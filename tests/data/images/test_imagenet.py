import numpy as np
import pytest

from deqjax.data.images._image_sets import load_images
from image_samples import imagenet_example, write_prepared


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("imagenet")
    labels = ("n01440764", "n01443537")
    train = [imagenet_example(i % 40, labels[i % 2]) for i in range(200)]
    write_prepared("imagenet2012", directory, {"train": train, "validation": train[3:8]})
    return directory


@pytest.fixture(scope="module")
def images(directory):
    return load_images("imagenet2012", directory=directory)


def test_a_hundredth_is_held_out_and_the_published_validation_is_the_test(images):
    assert [len(images.split(s)) for s in ("train", "validation", "test")] == [198, 2, 5]


def test_the_test_split_is_the_published_validation(images):
    values = sorted(int(images.test[i].image[0, 0, 0]) for i in range(5))
    assert values == [3, 4, 5, 6, 7]


def test_labels_number_the_thousand_synsets(images):
    assert (len(images.class_names), images.class_names[1]) == (1000, "n01443537")
    assert {
        (int(e.image[0, 0, 0]) % 2, int(e.label)) for e in map(images.test.__getitem__, range(5))
    } == {
        (0, 0),
        (1, 1),
    }


def test_images_keep_their_sizes(images):
    assert images.shape == (None, None, 3)
    assert {images.test[i].image.shape for i in range(5)} == {(43 + i, 60, 3) for i in range(5)}


def test_statistics_are_the_usual_ones(images):
    np.testing.assert_allclose(images.mean / 255, [0.485, 0.456, 0.406], rtol=1e-6)
    np.testing.assert_allclose(images.std / 255, [0.229, 0.224, 0.225], rtol=1e-6)


def test_a_limit_fills_up_from_the_classes_that_there_are(directory):
    limited = load_images("imagenet2012", directory=directory, limit_train=20).train
    assert (len(limited), {int(limited.label(i)) for i in range(20)}) == (20, {0, 1})


def test_missing_data_name_both_archives(tmp_path):
    with pytest.raises(
        ValueError, match=r"download ILSVRC2012_img_train\.tar and ILSVRC2012_img_val"
    ):
        load_images("imagenet2012", directory=tmp_path)
