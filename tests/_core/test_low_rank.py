"""The low-rank operator and its columns, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax._core.low_rank import LowRankInverse, identity_inverse

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

BATCH, RANK = 3, 4


def random_inverse():
    """U and V for a dict state of 2 + 4 features, and the dense H of each sample."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, BATCH, RANK, 6))
    middle, scale = rng.normal(size=(BATCH, RANK, RANK)), np.array([1.0, 0.5, 2.0])
    dense = np.eye(6) - np.einsum("bin,bij,bjm->bnm", left, middle, right)
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
