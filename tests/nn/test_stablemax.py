"""Stablemax against its equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.nn import log_stablemax, stablemax_cross_entropy


def equation(x):
    s = np.where(x >= 0, x + 1, 1 / (1 - np.minimum(x, 0)))
    return np.log(s / s.sum(-1, keepdims=True))


def test_it_is_its_equation():
    x = np.random.default_rng(0).normal(size=(4, 7), scale=20)
    with jax.enable_x64(True):
        np.testing.assert_allclose(log_stablemax(jnp.asarray(x)), equation(x), rtol=1e-12)
        labels = jnp.asarray([6, 0, 3, 1])
        nats = stablemax_cross_entropy(jnp.asarray(x), labels)
    np.testing.assert_allclose(nats, -equation(x)[np.arange(4), labels], rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_logits_stay_finite(dtype):
    x = jnp.asarray([1e4, -1e4, 0, 1e4], dtype)
    value, slope = jax.value_and_grad(lambda x: stablemax_cross_entropy(x, jnp.int32(1)))(x)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, np.log(2e4) + np.log(1e4), rtol=1e-2)
    assert jnp.isfinite(slope).all()


def test_the_slope_is_one_at_zero():
    """s'(0) = 1 from both sides: d/dx_1 of log s(x_0) - log(s(x_0) + s(x_1)) is -1/2 there."""
    slope = jax.grad(lambda x: log_stablemax(x)[0])(jnp.zeros(2))
    np.testing.assert_allclose(slope, [0.5, -0.5])
