import numpy as np
import pytest

from deqjax.data._find_prepared import Download, open_prepared
from deqjax.data._records import Fields, RecordedImages, read_class
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
    monkeypatch.setattr("deqjax.data._records.decode", None)
    label = source.label(3)
    assert (label.shape, label.dtype, int(label)) == ((), np.int32, 0)


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


def flip_a_bit(content):
    return content[:300] + bytes([content[300] ^ 4]) + content[301:]


def cut_at_a_block(content):
    return content[: 2**16]


@pytest.mark.parametrize("damage", [flip_a_bit, cut_at_a_block])
def test_a_damaged_file_is_refused(tmp_path, damage):
    pixels = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    example = {"image": encoded(pixels), "label": "n01440764", "file_name": "noise.JPEG"}
    write_prepared(NAME, tmp_path, {"train": [example] * 5})
    (file,) = tmp_path.rglob("*-train.array_record*")
    file.write_bytes(damage(file.read_bytes()))

    def read_all():
        builder = open_prepared(NAME, BY_HAND, directory=tmp_path)
        source = RecordedImages(builder, "train", FIELDS)
        for index in range(len(source)):
            _ = source[index]

    with pytest.raises(ValueError, match=r"5\.1\.0' is damaged \(.*\): delete that folder, and"):
        read_all()


def test_an_image_that_is_none_is_refused(tmp_path):
    example = {"image": b"<html>", "label": "n01440764", "file_name": "page.JPEG"}
    write_prepared(NAME, tmp_path, {"train": [example]})
    builder = open_prepared(NAME, BY_HAND, directory=tmp_path)
    with pytest.raises(ValueError, match=r"is damaged \(an image of 6 bytes cannot be decoded \("):
        RecordedImages(builder, "train", FIELDS)[0]
