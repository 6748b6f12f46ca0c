import numpy as np
import pytest

from deqjax.data.images._balance import balanced_indices

LABELS = np.random.default_rng(0).integers(0, 5, 400).astype(np.int32)


def choose(count, labels=LABELS, seed=0):
    return balanced_indices(
        lambda i: np.asarray(labels[i]), len(labels), classes=5, count=count, seed=seed
    )


@pytest.mark.parametrize("count", [5, 50, 250])
def test_every_class_has_equally_many(count):
    np.testing.assert_array_equal(np.bincount(LABELS[choose(count)]), [count // 5] * 5)


@pytest.mark.parametrize("count", [1, 4, 52, 58])
def test_a_remainder_makes_some_classes_larger_by_one(count):
    counts = np.bincount(LABELS[choose(count)], minlength=5)
    assert (counts.sum(), set(counts) <= {count // 5, count // 5 + 1}) == (count, True)


def test_a_class_with_too_few_is_filled_up_from_others():
    labels = np.array([0] * 3 + [1] * 50 + [2] * 50 + [3] * 50 + [4] * 50)
    counts = np.bincount(labels[choose(100, labels)])
    assert (counts[0], counts.sum(), counts[1:].min()) == (3, 100, 20)


def test_all_can_be_chosen():
    np.testing.assert_array_equal(choose(400), np.arange(400))


def test_the_choice_is_that_of_the_seed():
    np.testing.assert_array_equal(choose(50), choose(50))
    assert not np.array_equal(choose(50), choose(50, seed=1))


def test_few_labels_are_looked_at():
    looked_at = []

    def label(index):
        looked_at.append(index)
        return np.asarray(index % 5)

    balanced_indices(label, 10**5, classes=5, count=100, seed=0)
    assert len(looked_at) < 200
