import numpy as np
import pytest

from deqjax.data.images._decoded import DecodedImages
from deqjax.data.images._images import ArrayImages


class Counting:
    """Counts how often each of three gray images is asked for."""

    def __init__(self):
        images = np.arange(3, dtype=np.uint8).repeat(12).reshape(3, 2, 2, 3)
        self.source = ArrayImages(images, np.array([5, 6, 7], np.int32))
        self.seen = [0, 0, 0]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.seen[index] += 1
        return self.source[index]

    def label(self, index):
        return self.source.label(index)


def test_an_image_is_decoded_once():
    counting = Counting()
    source = DecodedImages(counting, (2, 2, 3))
    for index in (1, 0, 1, 1):
        example, expected = source[index], counting.source[index]
        np.testing.assert_array_equal(example.image, expected.image, strict=True)
        np.testing.assert_array_equal(example.label, expected.label, strict=True)
    assert counting.seen == [1, 1, 0]


def test_a_kept_image_cannot_be_overwritten():
    source = DecodedImages(Counting(), (2, 2, 3))
    with pytest.raises(ValueError, match="read-only"):
        source[0].image[0] = 1


def test_a_copy_for_another_process_starts_empty():
    source = DecodedImages(Counting(), (2, 2, 3))
    _ = source[2]
    constructor, arguments = source.__reduce__()
    assert not constructor(*arguments)._decoded.any()
