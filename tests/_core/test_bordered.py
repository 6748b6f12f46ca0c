"""Exchanges of a row and a column, against LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax._core.bordered import Entering, exchange

BATCH, SIZE, LEAST = 4, 5, 1e-12

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")


@jax.jit
def exchanged(inverse, index, row, column, lengths, vector, allowed=True):
    """With the corner in the column, and the vector's entry in the vector."""
    batch = jnp.arange(len(index))
    at = jnp.minimum(index, inverse.shape[1] - 1)
    return exchange(
        inverse,
        index,
        Entering(row, column, column[batch, at], *lengths),
        jnp.broadcast_to(allowed, (len(index),)),
        vector,
        vector[batch, at] * lengths[0],
        LEAST,
    )


def problem(seed, index):
    """M, another row and column of it with their lengths, and M with these."""
    rng = np.random.default_rng(seed)
    matrix, (row, column) = rng.normal(size=(BATCH, SIZE, SIZE)), rng.normal(size=(2, BATCH, SIZE))
    lengths = rng.uniform(0.1, 10, size=(2, BATCH))
    expected = matrix.copy()
    for i, o in enumerate(index):
        expected[i, o] = row[i] / lengths[0, i]
        expected[i, :, o] = column[i] / lengths[1, i]
        expected[i, o, o] = column[i, o] / lengths[:, i].prod()
    return matrix, row, column, lengths, expected


def without(matrix, index):
    """The inverse of M without an index, with zeros in its place."""
    inverse, rest = np.zeros_like(matrix), np.delete(np.arange(len(matrix)), index)
    inverse[np.ix_(rest, rest)] = np.linalg.inv(matrix[np.ix_(rest, rest)])
    return inverse


INDEX = np.array([0, 3, 4, 1], np.int32)
VECTOR = np.random.default_rng(1).normal(size=(BATCH, SIZE))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_index_may_be_of_the_dtype_of_the_matrix(dtype):
    matrix, row, column, lengths, _ = problem(0, INDEX)
    inverse, row, column, lengths, vector = (
        jnp.asarray(x, dtype) for x in (np.linalg.inv(matrix), row, column, lengths, VECTOR)
    )
    index = np.append(INDEX[:-1], SIZE)  # in the last sample nothing is exchanged
    entering, allowed = Entering(row, column, column[:, 0], *lengths), jnp.ones(BATCH, bool)
    by_number, by_float = (
        exchange(inverse, jnp.asarray(index, of), entering, allowed, vector, vector[:, 0], LEAST)
        for of in ("int32", dtype)
    )
    jax.tree.map(np.testing.assert_array_equal, by_float, by_number)
    assert by_float.sound.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(by_float.inverse[-1], inverse[-1])


def test_the_inverse_follows_the_matrix():
    matrix, row, column, lengths, expected = problem(0, INDEX)
    found = exchanged(np.linalg.inv(matrix), INDEX, row, column, lengths, VECTOR)
    assert found.sound.all()
    np.testing.assert_allclose(found.inverse, np.linalg.inv(expected), rtol=1e-9)
    solution = np.linalg.solve(expected, VECTOR[:, :, None])[:, :, 0]
    np.testing.assert_allclose(found.product, solution, rtol=1e-9)
    np.testing.assert_allclose(found.largest, np.abs(found.inverse).max(axis=(1, 2)))


def test_an_empty_index_is_filled():
    matrix, row, column, lengths, expected = problem(0, INDEX)
    inverse = np.stack([without(m, o) for m, o in zip(matrix, INDEX, strict=True)])
    found = exchanged(inverse, INDEX, row, column, lengths, VECTOR)
    np.testing.assert_allclose(found.inverse, np.linalg.inv(expected), rtol=1e-9)


def test_the_matrix_without_the_index_may_be_singular():
    matrix, row, column, lengths, _ = problem(0, INDEX)
    for m, o in zip(matrix, INDEX, strict=True):
        one, two = np.delete(np.arange(SIZE), o)[:2]
        keep = np.arange(SIZE) != o
        m[one, keep] = m[two, keep]
    expected = matrix.copy()
    for i, o in enumerate(INDEX):
        expected[i, o], expected[i, :, o] = row[i], column[i]
    found = exchanged(np.linalg.inv(matrix), INDEX, row, column, np.ones_like(lengths), VECTOR)
    np.testing.assert_allclose(found.inverse, np.linalg.inv(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reason", ["not allowed", "singular", "not finite"])
def test_where_nothing_enters_the_old_leaves(reason):
    matrix, row, column, lengths, _ = problem(0, INDEX)
    if reason == "singular":
        row, column = np.zeros_like(row), np.zeros_like(column)
    if reason == "not finite":
        row = np.full_like(row, np.nan)
    allowed = reason != "not allowed"
    found = exchanged(np.linalg.inv(matrix), INDEX, row, column, lengths, VECTOR, allowed)
    assert not found.sound.any()
    expected = np.stack([without(m, o) for m, o in zip(matrix, INDEX, strict=True)])
    np.testing.assert_allclose(found.inverse, expected, rtol=1e-9, atol=1e-12)
    product = np.einsum("bij,bj->bi", expected, VECTOR)
    np.testing.assert_allclose(found.product, product, rtol=1e-9, atol=1e-12)


def test_no_index_changes_nothing():
    matrix, row, column, lengths, _ = problem(0, INDEX)
    inverse = np.linalg.inv(matrix)
    index = np.full_like(INDEX, SIZE)
    found = exchanged(inverse, index, row, column, lengths, VECTOR)
    assert not found.sound.any()
    np.testing.assert_array_equal(found.inverse, inverse)
    np.testing.assert_allclose(found.product, np.einsum("bij,bj->bi", inverse, VECTOR))


def test_an_error_goes_with_the_indices_that_were_there():
    rng = np.random.default_rng(0)
    matrix = problem(0, INDEX)[0]
    inverse = np.linalg.inv(matrix) + 1e-3 * rng.normal(size=matrix.shape)
    for o in range(SIZE):
        _, row, column, lengths, _ = problem(o + 1, INDEX)
        index = np.full_like(INDEX, o)
        inverse = exchanged(inverse, index, row, column, np.ones_like(lengths), VECTOR).inverse
        matrix[:, o], matrix[:, :, o] = row, column
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-8, atol=1e-10)
