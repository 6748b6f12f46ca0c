import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from deqjax.data import DataError, load_images
from image_samples import encoded, write_prepared


def gray(number, label=None):
    """A 28x28 image of one shade; MNIST's examples."""
    label = number % 10 if label is None else label
    return {"image": encoded(np.full((28, 28, 1), number, np.uint8)[..., 0]), "label": label}


def shades(source):
    return {int(source[index].image[0, 0, 0]) for index in range(len(source))}


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    splits = {"train": [gray(n) for n in range(40)], "test": [gray(n) for n in range(100, 105)]}
    write_prepared("mnist", directory, splits)
    return directory


def test_a_set_by_its_name(mnist):
    images = load_images("mnist", directory=mnist)
    assert (images.name, images.task, images.shape) == ("mnist", "classification", (28, 28, 1))
    assert images.class_names == tuple("0123456789")
    example = images.test[2]
    assert (example.image.shape, int(example.label)) == ((28, 28, 1), example.image[0, 0, 0] % 10)
    assert "mnist/3.0.1" in images.identity


def test_a_missing_split_is_held_out_of_training(mnist):
    images = load_images("mnist", directory=mnist)
    assert [len(images.split(split)) for split in ("train", "validation", "test")] == [36, 4, 5]
    assert shades(images.train) | shades(images.validation) == set(range(40))
    assert shades(images.test) == set(range(100, 105))


def test_the_same_images_are_held_out_each_time(mnist):
    first, again = (load_images("mnist", directory=mnist).validation for _ in range(2))
    assert shades(first) == shades(again)


def test_a_resolution_scales_the_images(mnist):
    images = load_images("mnist", directory=mnist, resolution=7)
    assert images.shape == images.train[0].image.shape == (7, 7, 1)


def test_statistics_are_those_of_training(mnist):
    images = load_images("mnist", directory=mnist)
    kept = np.array(sorted(shades(images.train)), float)
    np.testing.assert_allclose(
        [images.mean[0], images.std[0]], [kept.mean(), kept.std()], rtol=1e-6
    )


def test_a_split_whose_labels_are_withheld_counts_as_missing(tmp_path):
    splits = {"train": [gray(n) for n in range(30)], "test": [gray(200, label=-1)]}
    write_prepared("mnist", tmp_path, splits)
    images = load_images("mnist", directory=tmp_path)
    assert [len(images.split(split)) for split in ("train", "validation", "test")] == [24, 3, 3]


def test_training_images_without_labels_are_refused(tmp_path):
    write_prepared("mnist", tmp_path, {"train": [gray(n, label=-1) for n in range(3)]})
    with pytest.raises(DataError, match="'mnist' has no split 'train' with labels, only train: ch"):
        load_images("mnist", directory=tmp_path)


def test_colored_images_of_many_sizes(tmp_path):
    examples = [
        {"image": encoded(np.zeros((5 + number, 4, 3), np.uint8)), "label": number % 3}
        for number in range(20)
    ]
    write_prepared("tf_flowers", tmp_path, {"train": examples})
    images = load_images("tf_flowers", directory=tmp_path)
    assert (images.shape, len(images.class_names)) == ((None, None, 3), 5)
    assert len({images.train[i].image.shape for i in range(len(images.train))}) == 16


def test_a_name_of_the_catalog_says_how_to_prepare_it(tmp_path):
    with pytest.raises(DataError, match=r"'eurosat' is not prepared in .* downloads it from https"):
        load_images("eurosat", directory=tmp_path)


@pytest.mark.parametrize("name", ["mnits", "../mnist", "", "*", "/mnist", "mnist:3.0.1"])
def test_an_unknown_name_is_refused(tmp_path, name):
    with pytest.raises(
        DataError, match=r"there is no image data set '.*': choose one of digits, cif"
    ):
        load_images(name, directory=tmp_path)


def test_a_set_of_several_forms_names_them(mnist, tmp_path):
    (version,) = (mnist / "mnist").iterdir()
    for form in ("large", "small"):
        shutil.copytree(version, tmp_path / "mnist" / form / version.name)
    with pytest.raises(
        DataError, match="has several forms: choose one of mnist/large, mnist/small"
    ):
        load_images("mnist", directory=tmp_path)


# Sets of one's own, prepared by builders that are not registered


def write_own(directory, features, example):
    """Prepares the set "own" of three times that example."""
    with registered.skip_registration():

        class Own(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                del dl_manager
                return {"train": ((key, example) for key in range(30))}

            def _generate_examples(self):
                raise NotImplementedError

    tfds.display_progress_bar(enable=False)
    Own(data_dir=directory, file_format="array_record").download_and_prepare()


CLASS = tfds.features.ClassLabel(names=["a", "b"])
PICTURE = tfds.features.Image(shape=(3, 5, 3))
EXAMPLE = encoded(np.full((3, 5, 3), 7, np.uint8))


def test_any_names_of_the_features_will_do(tmp_path):
    features = {"scan": PICTURE, "finding": CLASS, "id": tfds.features.Text()}
    write_own(tmp_path, features, {"scan": EXAMPLE, "finding": "b", "id": "x"})
    images = load_images("own", directory=tmp_path)
    assert (images.class_names, images.shape) == (("a", "b"), (3, 5, 3))
    np.testing.assert_array_equal(images.test[0].image, np.full((3, 5, 3), 7))
    assert int(images.test.label(0)) == 1


OTHERS = {
    "no image": (
        {"text": tfds.features.Text(), "label": CLASS},
        {"text": "x", "label": 0},
        r"not of images with one class each: its examples have .*'text' \(Text\)",
    ),
    "two images": (
        {"left": PICTURE, "right": PICTURE, "label": CLASS},
        {"left": EXAMPLE, "right": EXAMPLE, "label": 0},
        r"not of images with one class each: its examples have .*'right' \(Image\)",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_examples_of_another_kind_are_refused(tmp_path, name):
    features, example, sentence = OTHERS[name]
    write_own(tmp_path, features, example)
    with pytest.raises(DataError, match=sentence):
        load_images("own", directory=tmp_path)


def test_images_of_floating_point_numbers_are_refused(tmp_path):
    shade = tfds.features.Image(shape=(28, 28, 1))
    write_own(tmp_path, {"image": shade, "label": CLASS}, gray(0))
    (file,) = tmp_path.rglob("features.json")  # to encode such an image takes TensorFlow
    file.write_text(file.read_text().replace("uint8", "float32"))
    with pytest.raises(DataError, match="'own' are stored as float32, of which nothing says what"):
        load_images("own", directory=tmp_path)
