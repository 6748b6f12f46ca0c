"""What counts of a batch: weights, counts of either shape, and rows that only fill it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.training import Loss
from deqjax.training.step._loss import sums

ALL = np.ones(3, bool)
LOSSES = jnp.float32([[1, 2], [3, 4], [5, 6]])


def test_without_weights_every_number_counts_alike():
    found = sums(Loss(LOSSES), ALL)
    assert (float(found.mean), float(found.weight), found.counts) == (3.5, 6, {})


@pytest.mark.parametrize(
    ("weights", "total", "mean"),
    [
        ([[1, 0], [0, 0], [0, 3]], 4, (1 + 3 * 6) / 4),  # of each number
        ([1, 0, 2], 6, (1 + 2 + 2 * 11) / 6),  # of each row: of both its numbers
    ],
)
def test_weights_are_those_of_a_mean(weights, total, mean):
    found = sums(Loss(LOSSES, jnp.float32(weights)), ALL)
    assert float(found.weight) == total
    assert float(found.mean) == pytest.approx(mean)


def test_weights_of_less_than_one_together_are_still_those_of_a_mean():
    found = sums(Loss(LOSSES, jnp.float32([0.25, 0.0, 0.0])), ALL)
    assert (float(found.weight), float(found.mean)) == (0.5, 1.5)


def test_weights_may_be_bools():
    found = sums(Loss(LOSSES, jnp.array([True, False, True])), ALL)
    assert (float(found.weight), float(found.mean)) == (4, 3.5)


def test_rows_that_only_fill_the_batch_are_left_out():
    found = sums(
        Loss(LOSSES, counts={"row": jnp.int32([1, 10, 100])}), np.array([True, False, True])
    )
    assert (float(found.weight), float(found.mean), int(found.counts["row"])) == (4, 3.5, 202)


def test_nothing_that_counts_is_zero_and_not_nan():
    for found in (sums(Loss(LOSSES), ~ALL), sums(Loss(LOSSES, jnp.zeros(3)), ALL)):
        assert (float(found.mean), float(found.weight)) == (0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_in_rows_that_do_not_count_do_not_matter(bad):
    spoiled = LOSSES.at[1].set(bad)
    row = jnp.float32([1, bad, 100])
    counts = {"each": spoiled, "row": row, "rest": jnp.stack([row, row], axis=1)[:, None]}
    left_out = sums(Loss(spoiled, counts=counts), np.array([True, False, True]))
    weightless = sums(Loss(spoiled, jnp.float32([1, 0, 1]), {"each": spoiled}), ALL)
    assert float(left_out.mean) == float(weightless.mean) == 3.5
    assert float(left_out.counts["each"]) == float(weightless.counts["each"]) == 14
    assert float(left_out.counts["row"]) == 202  # of two losses each
    assert left_out.counts["rest"].tolist() == [[101, 101]]


def test_nan_that_counts_is_seen():
    assert np.isnan(sums(Loss(LOSSES.at[1, 0].set(np.nan)), ALL).mean)


def test_counts_of_the_losses_shape_are_weighted_as_they_are():
    hits = jnp.array([[True, True], [False, True], [True, False]])
    found = sums(Loss(LOSSES, jnp.float32([[1, 1], [1, 0.5], [0, 1]]), {"hits": hits}), ALL)
    assert float(found.counts["hits"]) == 2.5


def test_counts_of_another_shape_are_summed_over_the_rows_as_they_are():
    table = jnp.arange(12).reshape(3, 2, 2)
    found = sums(Loss(LOSSES, jnp.float32([9, 9, 9]), {"table": table}), ALL)
    assert found.counts["table"].tolist() == table.sum(axis=0).tolist()
    assert found.counts["table"].dtype == jnp.int32


def test_sums_are_of_float32_whatever_the_losses_are():
    # 4096 ones: bfloat16 would stop at 256
    ones = jnp.ones((4096,), jnp.bfloat16)
    found = sums(Loss(ones, ones, {"hits": ones > 0, "other": ones[:, None]}), np.ones(4096, bool))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    assert float(found.weight) == float(found.counts["hits"]) == 4096
    assert found.counts["other"].tolist() == [4096]


def test_a_count_of_rows_with_several_losses_becomes_a_share_of_the_rows():
    solved = jnp.array([True, False, True])
    found = sums(Loss(LOSSES, counts={"solved": solved}), ALL)
    assert float(found.counts["solved"] / found.weight) == pytest.approx(2 / 3)
