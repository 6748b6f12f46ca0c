import numpy as np
import pytest

from deqjax.data.images._images import Subset
from image_samples import classification, numbered, segmentation


def test_a_split_is_found_by_its_name():
    images = classification()
    assert images.split("validation") is images.validation


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="no split 'val': choose one of train, validation, test"):
        classification().split("val")


def test_only_segmentation_ignores_a_label():
    assert (classification().ignore_label, segmentation().ignore_label) == (None, 255)


def test_an_array_gives_its_examples():
    source = numbered(9)
    example = source[6]
    assert (len(source), example.image[0, 0, 0], example.label, source.label(6)) == (9, 6, 2, 2)


def test_labels_are_arrays_of_int32():
    label = numbered(9)[3].label
    assert (type(label), label.shape, label.dtype) == (np.ndarray, (), np.int32)


def test_a_subset_keeps_its_own_order():
    subset = Subset(numbered(9), np.array([7, 2, 4]))
    seen = [(int(subset[i].image[0, 0, 0]), int(subset.label(i))) for i in range(len(subset))]
    assert seen == [(7, 3), (2, 2), (4, 0)]
