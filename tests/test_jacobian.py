"""Jacobian estimates against numpy's dense answers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax import jacobian_penalty, spectral_norm, spectral_radius
from problems import affine_dict, coupled_dict, non_normal, with_radius

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

KEY = jax.random.key


def dense_jacobians(f, z):
    """(batch, n, n), for a state that is one array."""
    return np.stack([jax.jacobian(lambda row: f(row[None])[0])(row) for row in z])


def layer(z, matrix, gain):
    return jnp.tanh(gain * (z @ matrix.T) + 0.3)


MATRIX = non_normal(0.6, size=4)
POINT = np.random.default_rng(0).normal(size=(3, 4))


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_the_penalty_expects_the_squared_frobenius_norm(mode, distribution):
    draws = 2000
    f = partial(layer, matrix=MATRIX, gain=1.3)

    @jax.jit
    @jax.vmap
    def estimate(key):
        return jacobian_penalty(f, POINT, key=key, mode=mode, distribution=distribution)

    estimates = np.asarray(estimate(jax.random.split(KEY(0), draws)))
    expected = (dense_jacobians(f, POINT) ** 2).sum() / POINT.size
    error = estimates.std() / np.sqrt(draws)
    assert abs(estimates.mean() - expected) < 5 * error
    assert error < 0.05 * expected, "the bound is to be tight enough to fail"


def test_signs_know_a_diagonal_jacobian_exactly():
    gains = jnp.array([0.5, -2.0, 3.0])
    found = jacobian_penalty(
        lambda z: z * gains[None], jnp.ones((2, 3)), key=KEY(1), distribution="rademacher"
    )
    np.testing.assert_allclose(found, (0.25 + 4 + 9) / 3, rtol=1e-12)


def test_more_samples_shrink_the_variance():
    f = partial(layer, matrix=MATRIX, gain=1.3)

    def spread(samples):
        draw = jax.vmap(lambda key: jacobian_penalty(f, POINT, key=key, samples=samples))
        return np.asarray(jax.jit(draw)(jax.random.split(KEY(2), 500))).var()

    assert spread(8) < 0.3 * spread(1)


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
@pytest.mark.parametrize("closed_over", [False, True], ids=["args", "closure"])
def test_its_gradient_is_that_of_the_same_estimate(mode, closed_over):
    def penalty(gain):
        if closed_over:
            return jacobian_penalty(
                lambda z: layer(z, MATRIX, gain), POINT, key=KEY(3), samples=2, mode=mode
            )
        return jacobian_penalty(layer, POINT, MATRIX, gain, key=KEY(3), samples=2, mode=mode)

    found = jax.jit(jax.grad(penalty))(1.3)
    step = 1e-5
    value = jax.jit(penalty)
    expected = (value(1.3 + step) - value(1.3 - step)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
def test_no_gradient_flows_into_the_point(mode):
    def penalty(z):
        return jacobian_penalty(layer, z, MATRIX, 1.3, key=KEY(4), mode=mode)

    np.testing.assert_array_equal(jax.jit(jax.grad(penalty))(POINT), 0)


def test_a_penalty_of_a_bfloat16_layer_is_float32():
    z = jnp.ones((2, 3), jnp.bfloat16)
    found = jacobian_penalty(lambda z: z * jnp.bfloat16(0.5), z, key=KEY(5))
    assert found.dtype == jnp.float32
    assert jnp.isfinite(found)


ROTATION = np.array([[0.6, -0.7], [0.7, 0.6]])
SPECTRA = {
    "symmetric": with_radius(0.9, size=5),
    "negative": -with_radius(0.9, size=5),
    "complex pair": np.kron(np.diag([1.0, 0.4]), ROTATION),
    "non-normal": np.diag([0.9, 0.5, -0.3, 0.1]) + np.triu(np.ones((4, 4)), 1),
    "zero": np.zeros((3, 3)),
    "identity": np.eye(3),
    "1-d": np.array([[-0.7]]),
}


@partial(jax.jit, static_argnames=("estimate", "iterations"))
def estimate_batch(estimate, matrices, iterations=80):
    """A batch of linear maps, one a sample."""

    def f(z):
        return jnp.einsum("bij,bj->bi", matrices, z)

    z = jnp.zeros(matrices.shape[:2])
    return estimate(f, z, key=KEY(6), iterations=iterations)


@pytest.mark.parametrize("name", SPECTRA)
def test_spectral_radius_is_that_of_the_dense_jacobian(name):
    matrix = SPECTRA[name]
    found = estimate_batch(spectral_radius, np.stack([matrix, 1e-3 * matrix, 50 * matrix]))
    expected = np.abs(np.linalg.eigvals(matrix)).max() * np.array([1, 1e-3, 50])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("name", SPECTRA)
def test_spectral_norm_is_that_of_the_dense_jacobian(name):
    matrix = SPECTRA[name]
    found = estimate_batch(spectral_norm, np.stack([matrix, 1e-3 * matrix, 50 * matrix]))
    expected = np.linalg.norm(matrix, 2) * np.array([1, 1e-3, 50])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)


def test_a_start_that_has_converged_spans_nothing_else():
    # what is left of an eigenvector's image is rounding, a direction in which a map that is far
    # from normal can stretch more than its radius
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    matrix = np.diag([0.9, 0.5, -0.3, 0.1]) + 3 * np.triu(np.ones((4, 4)), 1)
    found = estimate_batch(spectral_radius, np.tile(basis @ matrix @ basis.T, (64, 1, 1)))
    np.testing.assert_allclose(found, 0.9, rtol=1e-6)


@pytest.mark.parametrize("estimate", [spectral_radius, spectral_norm])
def test_a_nonlinear_map_is_linearized_at_the_point(estimate):
    f = partial(layer, matrix=MATRIX, gain=1.3)
    found = jax.jit(lambda z: estimate(f, z, key=KEY(7), iterations=300))(jnp.asarray(POINT))
    jacobians = dense_jacobians(f, POINT)
    if estimate is spectral_radius:
        expected = np.abs(np.linalg.eigvals(jacobians)).max(axis=1)
    else:
        expected = np.linalg.norm(jacobians, 2, axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_dict_state_has_one_spectrum():
    problem = coupled_dict()
    z0, args = problem.cast(float)
    f = partial(affine_dict, matrix=args[0], offset=args[1])
    radius = jax.jit(lambda z: spectral_radius(f, z, key=KEY(8), iterations=80))(z0)
    norm = jax.jit(lambda z: spectral_norm(f, z, key=KEY(8), iterations=80))(z0)
    np.testing.assert_allclose(radius, 0.7, rtol=1e-4)
    np.testing.assert_allclose(norm, 0.7, rtol=1e-4)


@pytest.mark.parametrize("estimate", [spectral_radius, spectral_norm])
def test_spectra_carry_no_gradient(estimate):
    def total(gain):
        return estimate(layer, POINT, MATRIX, gain, key=KEY(9), iterations=2).sum()

    assert jax.jit(jax.grad(total))(1.3) == 0


def test_keys_among_the_arguments_pass_through():
    def f(z, key):
        return z * jax.random.bernoulli(key, 0.5, z.shape).astype(z.dtype)

    found = spectral_radius(f, jnp.ones((2, 64)), KEY(10), key=KEY(11))
    np.testing.assert_allclose(found, 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"mode": "jpv"}, "mode must be 'jvp' or 'vjp', got 'jpv'"),
        ({"distribution": "gauss"}, "distribution must be .*, got 'gauss'"),
    ],
)
def test_a_wrong_option_of_the_penalty_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        jacobian_penalty(lambda z: z, jnp.ones((2, 3)), key=KEY(0), **options)


@pytest.mark.parametrize("estimate", [spectral_radius, spectral_norm])
def test_too_few_iterations_are_refused(estimate):
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        estimate(lambda z: z, jnp.ones((2, 3)), key=KEY(0), iterations=0)
