"""The QR algorithm against LAPACK, and where such algorithms stall or lose digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax._core import hessenberg

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")


largest_modulus = jax.jit(hessenberg.largest_modulus)


def random_hessenberg(batch, size, seed=0):
    return np.triu(np.random.default_rng(seed).normal(size=(batch, size, size)), -1)


def lapack(matrices):
    return np.abs(np.linalg.eigvals(matrices)).max(axis=-1)


@pytest.mark.parametrize("size", [1, 2, 12])
def test_agrees_with_lapack(size):
    matrices = random_hessenberg(20, size)
    np.testing.assert_allclose(largest_modulus(matrices), lapack(matrices), rtol=1e-12)


def reducible():
    matrix = random_hessenberg(1, 8, seed=1)[0]
    matrix[[3, 4, 7], [2, 3, 6]] = 0
    return matrix


SIZE = 8
GRCAR = sum(np.eye(SIZE, k=k) for k in range(4)) - np.eye(SIZE, k=-1)
SPECIAL = {
    # a cyclic shift is a fixed point of the unshifted algorithm: eight eigenvalues of modulus 1
    "cycle": (np.roll(np.eye(SIZE), 1, axis=0), 1.0),
    "zero": (np.zeros((SIZE, SIZE)), 0.0),
    "triangular": (np.triu(random_hessenberg(1, SIZE)[0]), None),
    "reducible": (reducible(), None),
    "far from normal": (GRCAR, None),
    "graded": (random_hessenberg(1, SIZE)[0] * 10.0 ** -np.arange(SIZE), None),
    "large": (1e200 * GRCAR, None),
    "small": (1e-200 * GRCAR, None),
}


def test_special_matrices_whatever_their_batch_mates():
    stacked = np.stack([matrix for matrix, _ in SPECIAL.values()])
    expected = [lapack(m) if radius is None else radius for m, radius in SPECIAL.values()]
    together = largest_modulus(stacked)
    np.testing.assert_allclose(together, expected, rtol=1e-11)
    mates = (
        np.roll(stacked, 3, axis=0) * np.array([1.0, 0.3])[np.arange(len(stacked)) % 2, None, None]
    )
    others = largest_modulus(np.where((np.arange(len(stacked)) < 4)[:, None, None], stacked, mates))
    np.testing.assert_array_equal(others[:4], together[:4])


def test_float32_loses_only_what_the_matrix_loses():
    # of norm 3: a rounding of each entry moves this radius by about 1e-5
    found = largest_modulus(np.float32(GRCAR)[None])
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, lapack(GRCAR), rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_stays_alone(bad):
    matrices = random_hessenberg(3, 5)
    clean = largest_modulus(matrices)
    matrices[1, 2, 2] = bad
    found = largest_modulus(matrices)
    assert jnp.isnan(found[1])
    np.testing.assert_array_equal(found[::2], clean[::2])


def test_composes_with_vmap():
    matrices = random_hessenberg(6, 5).reshape(2, 3, 5, 5)
    np.testing.assert_allclose(jax.vmap(largest_modulus)(matrices), lapack(matrices), rtol=1e-12)
