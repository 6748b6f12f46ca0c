"""Rotary positions against complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.nn import rotary_angles, rotate

X = jax.random.normal(jax.random.key(0), (2, 5, 3, 8))


def turned_as_complex(x, pairs, base):
    """The equation in float64: a + ib times e^(i angle)."""
    x = np.asarray(x, np.float64)
    first, second = (
        (x[..., 0::2], x[..., 1::2]) if pairs == "neighbours" else np.split(x, 2, axis=-1)
    )
    angles = np.arange(5)[:, None] * base ** (-np.arange(0, 8, 2) / 8)
    z = (first + 1j * second) * np.exp(1j * angles)[:, None]
    if pairs == "neighbours":
        return np.stack([z.real, z.imag], -1).reshape(x.shape)
    return np.concatenate([z.real, z.imag], -1)


@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
@pytest.mark.parametrize("base", [10_000.0, 50.0])
def test_pairs_turn_by_their_angle(pairs, base):
    angles = rotary_angles(jnp.arange(5), 8, base=base)
    np.testing.assert_allclose(
        rotate(X, angles, pairs=pairs), turned_as_complex(X, pairs, base), atol=1e-5
    )


@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
def test_products_depend_on_the_distance_alone(pairs):
    def product(first, second):
        q = rotate(X[:, :1], rotary_angles(jnp.array([first]), 8), pairs=pairs)
        k = rotate(X[:, 1:2], rotary_angles(jnp.array([second]), 8), pairs=pairs)
        return jnp.sum(q * k, axis=-1)

    np.testing.assert_allclose(product(3, 1), product(12, 10), atol=1e-4)
    assert not np.allclose(product(3, 1), product(3, 2), atol=1e-2)


def test_bfloat16_stays_and_is_turned_in_float32():
    angles = rotary_angles(jnp.arange(1000, 1005), 8)
    low = X.astype(jnp.bfloat16)
    turned = rotate(low, angles, pairs="halves")
    assert turned.dtype == jnp.bfloat16
    exact = rotate(low.astype(jnp.float32), angles, pairs="halves")
    np.testing.assert_array_equal(turned, exact.astype(jnp.bfloat16))


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="must be even, got 7"):
        rotary_angles(jnp.arange(3), 7)
