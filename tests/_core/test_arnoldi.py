"""Arnoldi's process against the QR factorization of the Krylov matrix."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax._core.arnoldi import arnoldi
from problems import affine_dict, ravel

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

RNG = np.random.default_rng(0)
MATRICES = RNG.normal(size=(3, 7, 7))
START = RNG.normal(size=(3, 7))


def reference(matrix, start, dimension):
    """V^T A V with V from a QR factorization of [v, A v, ...]; exact up to signs of columns."""
    krylov = np.stack([np.linalg.matrix_power(matrix, k) @ start for k in range(dimension)], 1)
    basis, _ = np.linalg.qr(krylov)
    return basis.T @ matrix @ basis


@partial(jax.jit, static_argnames="dimension")
def restrict(matrices, start, dimension):
    return arnoldi(lambda v: jnp.einsum("bij,bj->bi", matrices, v), start, dimension)


@pytest.mark.parametrize("dimension", [1, 4, 7])
def test_restricts_each_sample_to_its_krylov_space(dimension):
    found = restrict(MATRICES, START, dimension)
    for h, matrix, start in zip(found, MATRICES, START, strict=True):
        expected = reference(matrix, start, dimension)
        np.testing.assert_allclose(np.abs(h), np.abs(expected), atol=1e-9)
        np.testing.assert_array_equal(np.tril(h, -2), 0)


def test_a_dict_is_one_vector():
    matrix, start = MATRICES[0], START[:1]
    state = {
        "hidden": jnp.asarray(start[:, :3]),
        "image": jnp.asarray(start[:, 3:]).reshape(1, 2, 2),
    }
    zero = jax.tree.map(jnp.zeros_like, state)
    (found,) = jax.jit(lambda z: arnoldi(lambda v: affine_dict(v, matrix, zero), z, 4))(state)
    expected = reference(matrix, ravel(state)[0], 4)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-10)


def test_an_invariant_subspace_ends_the_process():
    matrix = np.diag([3.0, 2, -1, 0.5, 0.1, -0.2, 7])
    start = np.eye(7)[:2].sum(axis=0)  # two eigenvectors: the largest eigenvalue is out of reach
    (found,) = restrict(matrix[None], start[None], 7)
    np.testing.assert_allclose(np.linalg.eigvals(found[:2, :2]).real.max(), 3, rtol=1e-12)
    np.testing.assert_array_equal(found[2:], 0)
    np.testing.assert_array_equal(found[:, 2:], 0)


def test_long_bases_stay_orthogonal():
    # eigenvalues over eight decades: after one Gram-Schmidt pass the basis would have lost them
    basis, _ = np.linalg.qr(RNG.normal(size=(24, 24)))
    eigenvalues = np.logspace(0, -8, 24)
    matrix = basis @ np.diag(eigenvalues) @ basis.T
    (found,) = restrict(matrix[None], RNG.normal(size=(1, 24)), 24)
    np.testing.assert_allclose(found, np.asarray(found).T, atol=1e-14)
    leading = np.sort(np.linalg.eigvalsh(found))[::-1][:6]
    np.testing.assert_allclose(leading, eigenvalues[:6], rtol=1e-11)


@pytest.mark.parametrize("start", [START, 0 * START], ids=["zero map", "zero start"])
def test_nothing_gives_zeros(start):
    matrices = MATRICES if not start.any() else 0 * MATRICES
    np.testing.assert_array_equal(restrict(matrices, start, 4), 0)


def test_a_product_that_is_not_finite_shows_in_its_sample_alone():
    matrices = MATRICES.copy()
    matrices[1, 2, 3] = np.nan
    found = restrict(matrices, START, 4)
    assert not np.isfinite(found[1]).all()
    np.testing.assert_array_equal(found[::2], restrict(MATRICES, START, 4)[::2])


def test_bfloat16_products_are_orthogonalized_in_float32():
    matrix = jnp.asarray(np.diag([1.0, 0.5, 0.25, -0.5]), jnp.bfloat16)
    found = jax.jit(lambda z: arnoldi(lambda v: v @ matrix, z, 4))(jnp.ones((1, 4), jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(found[0])).max(), 1, rtol=1e-2)
