import re
import shutil

import numpy as np
import pytest

from deqjax.data import DataError
from deqjax.data._find_prepared import Download, open_prepared
from deqjax.data.images._records import Fields, RecordedImages, read_class
from image_samples import encoded, imagenet_example, write_prepared

NAME = "imagenet2012"
BY_HAND = Download("Pictures", "https://example.org/page", "3 GB", ("one.tar", "two.tar"))
FIELDS = Fields("image", "label", encoded_label=False, read_label=read_class)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    write_prepared(NAME, directory, {"train": [imagenet_example(i) for i in range(12)]})
    return directory


@pytest.fixture(scope="module")
def builder(prepared):
    return open_prepared(NAME, BY_HAND, directory=prepared)


def test_examples_are_decoded(builder):
    source = RecordedImages(builder, "train", FIELDS)
    described = sorted(
        (e.image.shape, int(e.image[0, 0, 0])) for e in map(source.__getitem__, range(12))
    )
    assert described == [((40 + i, 60, 3), i) for i in range(12)]


def test_a_resolution_scales_the_shorter_side(builder):
    source = RecordedImages(builder, "train[:1]", FIELDS, resolution=20)
    height, width, _ = source[0].image.shape
    assert (height, width) == (20, round(60 * 20 / (40 + int(source[0].image[0, 0, 0]))))


def test_a_label_is_read_without_its_image(builder, monkeypatch):
    source = RecordedImages(builder, "train", FIELDS)
    monkeypatch.setattr("deqjax.data.images._records.decode", None)
    label = source.label(3)
    assert (label.shape, label.dtype, int(label)) == ((), np.int32, 0)


def test_a_label_that_is_withheld_is_refused(tmp_path):
    write_prepared(NAME, tmp_path, {"test": [imagenet_example(0, label=-1)]})
    source = RecordedImages(open_prepared(NAME, BY_HAND, directory=tmp_path), "test", FIELDS)
    for read in (source.__getitem__, source.label):
        with pytest.raises(
            DataError, match=r"number 0 of 'test' in .*: its label is withheld: cho"
        ):
            read(0)


def test_an_image_that_is_refused_is_named(builder, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 2300)
    source = RecordedImages(builder, "train[:1]", FIELDS)
    with pytest.raises(
        DataError, match=r"^number 0 of 'train\[:1\]' in .* more than the 2300 that"
    ):
        source[0]


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        ("validation[:50%]", "has no split 'validation'"),
        ("train[99%:]", "too few examples for the"),
    ],
)
def test_a_split_without_examples_is_refused(builder, split, sentence):
    with pytest.raises(ValueError, match=sentence):
        RecordedImages(builder, split, FIELDS)


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Five images of noise: the root, and the one file of their split, which fills some blocks."""
    directory = tmp_path_factory.mktemp("noise")
    examples = [
        {"image": encoded(pixels), "label": "n01440764", "file_name": "noise.JPEG"}
        for pixels in PIXELS
    ]
    write_prepared(NAME, directory, {"train": examples})
    (file,) = directory.rglob("*-train.array_record*")
    return directory, file, file.read_bytes()


@pytest.fixture
def read_damaged(noise):
    """Puts a content in the place of the file, or nothing, and reads all examples."""
    directory, file, content = noise

    def read(damaged):
        source = RecordedImages(open_prepared(NAME, BY_HAND, directory=directory), "train", FIELDS)
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        return sorted(source[index].image.tobytes() for index in range(len(source)))

    yield read
    file.write_bytes(content)


def test_intact_files_are_read(noise, read_damaged):
    assert read_damaged(noise[2]) == sorted(pixels.tobytes() for pixels in PIXELS)


DAMAGED = r"5\.1\.0' is damaged \(.*\): delete that folder, and prepare it again"


def test_a_missing_file_is_refused(read_damaged):
    with pytest.raises(DataError, match=DAMAGED):
        read_damaged(None)


@pytest.mark.parametrize("kept", [0, 1, 1000, 2**16 - 1, 2**16, 2**16 + 1, -1])
def test_a_truncated_file_is_refused(noise, read_damaged, kept):
    with pytest.raises(DataError, match=DAMAGED):
        read_damaged(noise[2][:kept])


def test_no_flipped_bit_gives_another_image(noise, read_damaged):
    """The file is padded with zeros up to whole blocks: what is flipped there may go unnoticed."""
    content, generator = noise[2], np.random.default_rng(0)
    used = np.flatnonzero(np.frombuffer(content, np.uint8))
    unchanged, refused = sorted(pixels.tobytes() for pixels in PIXELS), 0
    for position in generator.choice(used, 100):
        flipped = bytearray(content)
        flipped[position] ^= 1 << generator.integers(8)
        found = unchanged
        try:
            found = read_damaged(bytes(flipped))
        except DataError as error:
            refused += bool(re.search(DAMAGED, str(error)))
        assert found == unchanged
    assert refused >= 90


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("dataset_info.json", "{SPLIT}", "{SPLYT}", "Could not format template"),
        ("features.json", '"image"', '"imbge"', "no feature 'image'"),
    ],
)
def test_a_description_that_leads_nowhere_is_refused(prepared, tmp_path, file, old, new, reason):
    shutil.copytree(prepared, tmp_path / "data")
    (description,) = (tmp_path / "data").rglob(file)
    description.write_text(description.read_text().replace(old, new, 1))
    builder = open_prepared(NAME, BY_HAND, directory=tmp_path / "data")
    with pytest.raises(DataError, match=rf"5\.1\.0' is damaged \({reason}.*delete that folder"):
        RecordedImages(builder, "train", FIELDS)


def test_an_image_that_is_none_is_refused(tmp_path):
    example = {"image": b"<html>", "label": "n01440764", "file_name": "page.JPEG"}
    write_prepared(NAME, tmp_path, {"train": [example]})
    builder = open_prepared(NAME, BY_HAND, directory=tmp_path)
    with pytest.raises(ValueError, match=r"is damaged \(an image of 6 bytes cannot be decoded \("):
        RecordedImages(builder, "train", FIELDS)[0]
