"""The small inverses and the low-rank operator, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax._core.low_rank import LowRankInverse, identity_inverse, invert, store_each

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

BATCH, RANK = 3, 4


def random_inverse():
    """U and V for a dict state of 2 + 4 features, and the dense H of each sample."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, BATCH, RANK, 6))
    middle, scale = rng.normal(size=(BATCH, RANK, RANK)), np.array([1.0, 0.5, 2.0])
    dense = np.eye(6) + np.einsum("bin,bij,bjm->bnm", left, middle, right)
    dense *= scale[:, None, None]

    def columns(flat):
        return {"a": jnp.asarray(flat[:, :, :2]), "b": jnp.asarray(flat[:, :, 2:])}

    arrays = columns(left), jnp.asarray(middle), columns(right), jnp.asarray(scale)
    return LowRankInverse(*arrays), dense


def state(flat):
    return {"a": jnp.asarray(flat[:, :2]), "b": jnp.asarray(flat[:, 2:]).reshape(-1, 2, 2)}


@pytest.mark.parametrize("transposed", [False, True])
def test_it_acts_like_the_dense_matrix(transposed):
    inverse, dense = random_inverse()
    x = np.random.default_rng(1).normal(size=(BATCH, 6))
    found = (inverse.transposed if transposed else inverse).apply(state(x))
    matrices = dense.transpose(0, 2, 1) if transposed else dense
    expected = state(np.einsum("bnm,bm->bn", matrices, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_without_columns_it_is_the_identity():
    x = state(np.random.default_rng(1).normal(size=(BATCH, 6)))
    found = identity_inverse(x, RANK).apply(x)
    jax.tree.map(np.testing.assert_array_equal, found, x)


def test_each_sample_has_its_own_slot():
    columns, column = jnp.zeros((BATCH, RANK, 2)), jnp.arange(6.0).reshape(BATCH, 2) + 1
    slot, where = jnp.array([3, 0, 1], jnp.int32), jnp.array([True, True, False])
    expected = np.zeros((BATCH, RANK, 2))
    expected[0, 3], expected[1, 0] = column[0], column[1]
    np.testing.assert_array_equal(store_each(columns, column, slot, where), expected)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_inverses_agree_with_lapack(size):
    rng = np.random.default_rng(size)
    matrices = rng.normal(size=(5, size, size)) * 10.0 ** rng.integers(0, 9, size=(5, 1, size))
    inverse, pivot = jax.jit(invert)(matrices)
    np.testing.assert_allclose(inverse, np.linalg.inv(matrices), rtol=1e-8)
    assert (pivot > 1e-6).all()


def test_a_zero_in_the_pivots_place_is_no_obstacle():
    # rows have to be exchanged twice, and differently for each sample
    permutations = np.eye(3)[np.array([[1, 2, 0], [2, 0, 1], [2, 1, 0]])]
    inverse, pivot = jax.jit(invert)(permutations)
    np.testing.assert_array_equal(inverse, permutations.transpose(0, 2, 1))
    np.testing.assert_array_equal(pivot, 1)


def test_the_smallest_pivot_tells_a_singular_matrix_from_its_neighbors():
    good, singular = np.eye(3), np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    inverse, pivot = jax.jit(invert)(np.stack([good, singular, np.zeros((3, 3)), np.nan * good]))
    np.testing.assert_array_equal(inverse[0], good)
    assert pivot[0] == 1
    assert pivot[1] < 1e-15
    assert pivot[2] == 0
    assert np.isnan(pivot[3])
