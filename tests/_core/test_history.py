"""Histories in rings."""

import jax.numpy as jnp
import numpy as np
import pytest

from deqjax._core.history import store, store_each, subtract_weighted_steps

pytestmark = pytest.mark.usefixtures("strict_promotion")

BATCH, COUNT = 3, 4


def subtract(weights, slots=(2, 0, 1)):
    """From states of a leaf (2, 2) and one (2,), by differences of three columns."""
    columns = {
        "a": jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2) ** 2,
        "b": jnp.arange(6, dtype=jnp.float32).reshape(2, 3, 1),
    }
    start = {"a": jnp.ones((2, 2)), "b": jnp.ones(2)}
    weights = [jnp.asarray(weight, jnp.float32) for weight in weights]
    return subtract_weighted_steps(start, columns, weights, [jnp.int32(slot) for slot in slots])


def test_differences_run_from_slot_to_slot():
    found = subtract([[2, 1], [0, 3]])
    # sample 0: column 2 - column 0, twice; sample 1: that once, and three times column 0 - column 1
    np.testing.assert_array_equal(found["a"][0], [1 - 2 * 16, 1 - 2 * (25 - 1)])
    np.testing.assert_array_equal(found["b"], [1 - 2 * 2, 1 - 2 - 3 * -1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_change_nothing(bad):
    found = subtract([[bad, 1], [0, 3]])
    np.testing.assert_array_equal(found["a"][0], [1, 1])
    assert (found["a"][1] != 1).all()


def test_each_sample_has_its_own_slot():
    columns, column = jnp.zeros((BATCH, COUNT, 2)), jnp.arange(6.0).reshape(BATCH, 2) + 1
    slot, where = jnp.array([3, 0, 1], jnp.int32), jnp.array([True, True, False])
    expected = np.zeros((BATCH, COUNT, 2))
    expected[0, 3], expected[1, 0] = column[0], column[1]
    np.testing.assert_array_equal(store_each(columns, column, slot, where), expected)


@pytest.mark.parametrize("keep", [False, True])
def test_one_slot_of_all_samples_is_written_or_left_empty(keep):
    columns, column = jnp.ones((BATCH, COUNT, 2)), jnp.arange(6.0).reshape(BATCH, 2) + 1
    where = jnp.array([True, False, True])
    expected = np.ones((BATCH, COUNT, 2))
    expected[:, 2] = np.where(where[:, None], column, float(keep))
    found = store(columns, column, jnp.int32(2), where, keep)
    np.testing.assert_array_equal(found, expected)
    everywhere = store(columns, column, jnp.int32(2))
    np.testing.assert_array_equal(everywhere[:, 2], column)
