import os
import shutil

import numpy as np
import pytest
from PIL import Image

from deqjax.data import (
    Augmentation,
    DataError,
    image_evaluation_batches,
    image_fingerprint,
    image_train_batches,
    load_images,
)

CLASSES = ("ant", "bee")


def write(root, split, label, count, *, size=(6, 4), mode="RGB", form="png", first=0):
    """Images of one color each, their number; `size` is (width, height)."""
    folder = root / split / label
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        color = number if mode == "L" else (number, number, number)
        Image.new(mode, size, color).save(folder / f"{number:02}.{form}")


@pytest.fixture
def root(tmp_path):
    """20 images of each of two classes in train, told apart by their color: 0 to 19, 50 to 69."""
    write(tmp_path, "train", "ant", 20)
    write(tmp_path, "train", "bee", 20, first=50)
    return tmp_path


def load(root, **arguments):
    return load_images("folder", folder=root, **arguments)


def colors(source):
    """The color of every image, and its label."""
    found = [source[index] for index in range(len(source))]
    return [(int(x.image[0, 0, 0]), int(x.label)) for x in found]


def shapes(images):
    sources = [images.split(split) for split in ("train", "validation", "test")]
    return {source[index].image.shape for source in sources for index in range(len(source))}


def test_classes_are_the_folders_by_name(root):
    write(root, "validation", "bee", 3, first=90)
    write(root, "test", "ant", 2, first=80)
    images = load(root)
    assert images.class_names == CLASSES
    assert colors(images.train) == [(n, 0) for n in range(20)] + [(n, 1) for n in range(50, 70)]
    assert colors(images.validation) == [(90, 1), (91, 1), (92, 1)]
    assert colors(images.test) == [(80, 0), (81, 0)]


def test_missing_splits_are_held_out_of_every_class(root):
    images = load(root)
    parts = [colors(images.split(split)) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert [sum(label for _, label in part) for part in parts] == [16, 2, 2]
    assert len(set().union(*parts)) == 40


def test_what_is_held_out_stays_held_out_when_images_are_added(root):
    before = load(root)
    write(root, "train", "ant", 1, first=30)
    after = load(root)
    assert set(colors(before.validation)) == set(colors(after.validation))
    assert not set(colors(before.validation)) & set(colors(after.train))


def test_images_of_one_size_have_a_shape_and_stay_in_memory(root):
    images = load(root)
    assert images.shape == images.train[0].image.shape == (4, 6, 3)
    before = colors(images.train)
    shutil.rmtree(root)
    assert colors(images.train) == before


def test_an_image_that_goes_away_is_named(root):
    write(root, "test", "bee", 1)
    images = load(root)
    shutil.rmtree(root / "test")
    with pytest.raises(DataError, match=r"the image '.*/test/bee/00.png' cannot be read \(No such"):
        colors(images.test)


def test_sizes_that_differ_are_those_of_each_image(root):
    write(root, "train", "bee", 1, size=(9, 3), first=99)
    images = load(root)
    assert images.shape == (None, None, 3)
    assert shapes(images) == {(4, 6, 3), (3, 9, 3)}


@pytest.mark.parametrize(
    ("size", "shape"), [((6, 4), (8, 12, 3)), ((12, 8), (8, 12, 3)), ((9, 3), (None, None, 3))]
)
def test_a_resolution_scales_the_shorter_side(root, size, shape):
    write(root, "train", "bee", 1, size=size, first=99)
    images = load(root, resolution=8)
    assert images.shape == shape
    assert {min(found[:2]) for found in shapes(images)} == {8}


def test_gray_images_have_one_channel(tmp_path):
    for label in CLASSES:
        write(tmp_path, "train", label, 5, mode="L")
    assert load(tmp_path).shape == load(tmp_path).train[0].image.shape == (4, 6, 1)
    write(tmp_path, "train", "ant", 1, first=9)
    assert load(tmp_path).shape == load(tmp_path).train[0].image.shape == (4, 6, 3)


def test_statistics_are_those_of_the_training_images(root):
    images = load(root)
    values = np.array([color for color, _ in colors(images.train)], float)
    np.testing.assert_allclose(images.mean, np.full(3, values.mean()), rtol=1e-6)
    np.testing.assert_allclose(images.std, np.full(3, values.std()), rtol=1e-6)


def test_images_of_one_color_are_not_divided_by_zero(tmp_path):
    for label in CLASSES:
        write(tmp_path, "train", label, 3, mode="L", first=7)
        for path in (tmp_path / "train" / label).iterdir():
            Image.new("L", (6, 4), 7).save(path)
    np.testing.assert_array_equal(load(tmp_path).std, [1])


@pytest.mark.parametrize("form", ["jpg", "JPEG", "bmp", "webp", "tif", "gif", "ppm"])
def test_any_format_that_is_read_is_found(root, form):
    write(root, "validation", "bee", 1, form=form, first=200)
    ((color, label),) = colors(load(root).validation)
    assert (abs(color - 200) <= 1, label) == (True, 1)


def test_hidden_files_and_files_beside_the_splits_are_passed_over(root):
    for path in (".DS_Store", "train/.DS_Store", "train/bee/.DS_Store", "README.txt"):
        (root / path).write_text("no image")
    assert len(load(root).train) == 32


def test_batches_come_out_of_a_folder(root):
    images = load(root, limit_train=20)
    batches = image_train_batches(images, batch_size=20, seed=0, augmentation=Augmentation())
    batch = next(batches)
    assert (batch.images.shape, np.bincount(batch.labels).tolist()) == ((20, 4, 6, 3), [10, 10])
    (evaluated,) = image_evaluation_batches(images, "test", batch_size=4)
    assert (evaluated.images.shape, evaluated.labels.tolist()) == ((4, 4, 6, 3), [0, 0, 1, 1])


def test_the_fingerprint_is_that_of_the_files_wherever_they_lie(root, tmp_path_factory):
    def named(images):
        return image_fingerprint(images, batch_size=4, seed=0, augmentation=Augmentation())

    before = named(load(root))
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    os.rename(root, moved)
    assert named(load(moved)) == before
    write(moved, "train", "bee", 1, first=70)
    assert named(load(moved))["identity"] != before["identity"]


# Classes of a run


def test_classes_of_a_run_keep_their_numbers(root):
    images = load(root, class_names=["wasp", "bee", "ant"])
    assert images.class_names == ("wasp", "bee", "ant")
    assert {(color < 50, label) for color, label in colors(images.train)} == {(True, 2), (False, 1)}


def test_a_class_that_a_run_does_not_know_is_refused(root):
    write(root, "train", "cat", 3)
    with pytest.raises(
        DataError, match=r"the class 'cat' in train of .* none of the 2 that are told"
    ):
        load(root, class_names=CLASSES)


def test_another_set_than_the_runs_is_refused():
    with pytest.raises(DataError, match="classes of 'digits' are not those 2 that are told apart"):
        load_images("digits", class_names=CLASSES)


# What cannot be read


SPOILED = {
    "no folder": (
        lambda r: os.rename(r, r / "../away"),
        r"cannot be read \(No such file .*train/CL",
    ),
    "nothing": (lambda r: os.rename(r / "train", r / ".train"), "has no classes: images lie in"),
    "other split": (
        lambda r: write(r, "val", "ant", 1),
        "'val' in the image .* none of train, vali",
    ),
    "one class": (
        lambda r: os.rename(r / "train/bee", r / ".b"),
        "only the class 'ant' in train, whi",
    ),
    "empty class": (lambda r: (r / "train/cat").mkdir(), "train/cat' has no images: put some"),
    "stray file": (
        lambda r: (r / "train/x.png").write_text(""),
        r"train/x.png' lies in no class of",
    ),
    "no image": (
        lambda r: (r / "train/bee/a.txt").write_text(""),
        "bee/a.txt' in the .* no image fi",
    ),
    "folder": (lambda r: (r / "train/bee/a.png").mkdir(), "bee/a.png' in the .* is no image file"),
    "pipe": (lambda r: os.mkfifo(r / "train/bee/a.png"), "bee/a.png' in the .* is no image file"),
    "dead link": (
        lambda r: (r / "train/bee/a.png").symlink_to("b"),
        "bee/a.png' in the .* is no im",
    ),
    "empty image": (
        lambda r: (r / "train/bee/60.png").write_text(""),
        "bee/60.png' cannot be deco",
    ),
    "few": (
        lambda r: write(r, "train", "cat", 2),
        "'cat' has 2 training .* validation and test: a",
    ),
    "new class": (lambda r: write(r, "test", "cat", 2), "class 'cat' in test of .* none of the 2"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_folder_that_cannot_work_is_refused(root, name):
    spoil, sentence = SPOILED[name]
    spoil(root)
    with pytest.raises(DataError, match=sentence):
        load(root)


def test_a_damaged_image_with_a_whole_header_is_named_when_it_is_decoded(root):
    write(root, "test", "bee", 1)
    path = root / "test" / "bee" / "00.png"
    path.write_bytes(path.read_bytes()[:45])
    images = load(root)
    with pytest.raises(DataError, match=r"the image '.*/test/bee/00.png' cannot be decoded \("):
        colors(images.test)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("~no-such-user/images", r"~no-such-user/images' is no path of .* \(there is no such home"),
        ("a\0b", "is no path of an image folder: give another one"),
        ("", "'' is no path of an image folder: give another one"),
    ],
)
def test_what_is_no_path_is_refused(path, sentence):
    with pytest.raises(DataError, match=sentence):
        load(path)
