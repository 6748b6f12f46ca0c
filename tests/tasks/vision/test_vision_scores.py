"""What counts of an image model's predictions, and the scores made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax import data
from deqjax.models import ImagePrediction
from deqjax.tasks.vision import VisionTask
from deqjax.tasks.vision._batches import LabelledImages
from deqjax.tasks.vision._scores import intersections
from deqjax.training import Batch
from deqjax.training.step._loss import sums


class Fixed(nnx.Module):
    """A model whose logits are given."""

    def __init__(self, logits):
        self.logits = jnp.asarray(logits)

    def __call__(self, images, **options):
        return ImagePrediction(self.logits, ())


@jax.jit
def seen(logits, given):
    """What counts of the losses of given logits."""
    return sums(VisionTask().loss(Fixed(logits), given.rows), given.counted)


def rows(images, labels, counted):
    return Batch(LabelledImages(jnp.zeros(images), labels), counted)


def test_the_loss_is_the_mean_over_what_counts():
    logits = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    labels, counted = np.array([1, 6, 0, 3]), np.array([True, True, False, True])
    found = seen(logits, rows((4, 8, 8, 1), labels, counted))
    nats = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[range(4), labels]
    np.testing.assert_allclose(found.mean, nats[counted].mean(), rtol=1e-5)
    assert found.weight == 3


def test_hits_are_labels_with_fewer_ahead_of_them():
    logits = np.array([[3, 2, 1, 0, -1, -2.0], [0, 1, 2, 3, 4, 5], [0, 9, 0, 0, 0, 0]])
    labels, counted = np.array([0, 0, 1]), np.array([True, True, True])
    counts = seen(logits, rows((3, 8, 8, 1), labels, counted)).counts
    assert counts == {"top1": 2, "top5": 2}


def test_logits_that_are_not_finite_or_all_alike_hit_nothing():
    logits = np.zeros((3, 7), np.float32)
    logits[1] = np.nan
    logits[2, 3] = np.inf
    labels = np.array([6, 0, 3])
    given = rows((3, 8, 8, 1), labels, np.ones(3, bool))
    # the infinite one is the first; of seven equals the last is not among the first five
    assert seen(logits, given).counts == {"top1": 1, "top5": 1}


def test_pixels_whose_logits_are_not_finite_are_taken_for_nothing():
    logits = np.zeros((1, 1, 4, 2), np.float32)
    logits[0, 0, :2] = np.nan
    given = rows((1, 1, 4, 3), np.zeros((1, 1, 4), np.int32), np.array([True]))
    found = seen(logits, given)
    np.testing.assert_array_equal(found.counts["confusion"], [[2, 0, 2], [0, 0, 0]])
    scores = intersections(np.asarray(found.counts["confusion"]), ("road", "car"))
    assert scores["iou/road"] == 0.5


def test_pixels_that_are_ignored_count_nowhere():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 4, 4))
    labels[:, 0] = data.IGNORE_LABEL
    given = rows((2, 4, 4, 3), jnp.asarray(labels), np.array([True, False]))
    found = seen(logits, given)
    taken = logits.argmax(-1)[0, 1:].ravel()
    expected = np.zeros((3, 4))
    np.add.at(expected, (labels[0, 1:].ravel(), taken), 1)
    np.testing.assert_array_equal(found.counts["confusion"], expected)
    assert found.weight == 12
    assert np.isfinite(found.mean)


def test_logits_are_enlarged_to_the_labels():
    logits = np.zeros((1, 2, 2, 2), np.float32)
    logits[:, :, 1, 1] = 4
    labels = np.zeros((1, 4, 4), np.int32)
    counts = seen(logits, rows((1, 4, 4, 3), labels, np.array([True]))).counts
    # class 1 has 4/3 and more beside class 0's 0 from the second column on
    np.testing.assert_array_equal(counts["confusion"], [[4, 12, 0], [0, 0, 0]])


def test_intersection_over_union_leaves_out_classes_that_never_occur():
    confusion = np.array([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0]])
    found = intersections(confusion, ("road", "car", "sky"))
    assert found["iou/road"] == pytest.approx(3 / 6)
    assert found["iou/car"] == pytest.approx(4 / 7)
    assert np.isnan(found["iou/sky"])
    assert found["mean_iou"] == pytest.approx((3 / 6 + 4 / 7) / 2)
