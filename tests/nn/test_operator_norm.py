"""The bound of a convolution's operator norm against the norm itself, by dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.nn import convolution_norm_bound, convolve

bound = jax.jit(convolution_norm_bound, static_argnames="iterations")


def operator_norm(kernel, size=6):
    """Of the zero-padded convolution of images of size x size, as a dense matrix."""
    inputs = kernel.shape[2]
    basis = jnp.eye(size * size * inputs).reshape(-1, size, size, inputs)
    return np.linalg.norm(np.asarray(convolve(basis, kernel)).reshape(len(basis), -1), 2)


def kernel(size, inputs, outputs, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(size, size, inputs, outputs)))


@pytest.mark.parametrize(
    ("size", "inputs", "outputs"), [(1, 4, 4), (3, 3, 5), (3, 5, 3), (5, 2, 2)]
)
def test_it_is_never_below_the_operator_norm_and_not_far_above(size, inputs, outputs):
    w = kernel(size, inputs, outputs)
    assert 1 <= float(bound(w)) / operator_norm(w) < 2.5


def test_of_a_kernel_without_extent_it_is_the_spectral_norm():
    w = kernel(1, 4, 6)
    expected = np.linalg.norm(np.asarray(w[0, 0]), 2)
    np.testing.assert_allclose(bound(w), expected, rtol=2e-2)
    np.testing.assert_allclose(bound(w, iterations=12), expected, rtol=5e-4)


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1e4, 1e15])
def test_it_scales_with_the_kernel(scale):
    w = kernel(3, 4, 4)
    np.testing.assert_allclose(bound(scale * w), scale * bound(w), rtol=1e-4)


def test_a_sum_of_equal_signs_is_bounded_sharply():
    """A box filter: its norm on large images is the sum of its weights, and so is the bound."""
    w = jnp.ones((3, 3, 1, 1))
    np.testing.assert_allclose(bound(w), 9, rtol=1e-3)
    assert operator_norm(w, 20) == pytest.approx(9, rel=0.05)


def test_its_gradient_is_that_of_finite_differences():
    w, direction = kernel(3, 2, 3), kernel(3, 2, 3, seed=1)
    slope = jnp.sum(jax.jit(jax.grad(convolution_norm_bound))(w) * direction)
    step = 1e-2
    expected = (bound(w + step * direction) - bound(w - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=2e-3)


def test_of_nothing_it_is_almost_zero_and_has_a_gradient():
    zero = jnp.zeros((3, 3, 2, 2))
    value, slope = jax.jit(jax.value_and_grad(convolution_norm_bound))(zero)
    assert 0 < value < 1e-15
    assert np.isfinite(slope).all()
