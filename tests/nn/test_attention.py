"""Attention with grouped keys, and the RMS norm, against their formulas and JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.nn import attention, rms_norm, visible

LENGTH, MEMORY, WIDTH = 3, 2, 4


def parts(key_heads, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = (LENGTH, 4), (MEMORY + LENGTH, key_heads), (MEMORY + LENGTH, key_heads)
    return [
        jax.random.normal(key, (2, *size, WIDTH), dtype)
        for key, size in zip(keys, sizes, strict=True)
    ]


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_values_and_derivatives_are_those_of_jax(key_heads):
    q, k, v = parts(key_heads)
    seen = visible(LENGTH, MEMORY, horizon=4, filled=jnp.array([2, 1]))
    tangents = [jnp.cos(part) for part in (q, k, v)]

    @jax.jit
    def both(q, k, v):
        found = []
        for f in (attention, lambda *each: jax.nn.dot_product_attention(*each[:3], mask=each[3])):
            value, tangent = jax.jvp(lambda *each, f=f: f(*each, seen), (q, k, v), tuple(tangents))
            pulled = jax.vjp(lambda *each, f=f: f(*each, seen), q, k, v)[1](jnp.sin(q))
            found.append((value, tangent, *pulled))
        return found

    for ours, theirs in zip(*both(q, k, v), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_in_float64_it_is_the_formula(float64):
    """To more digits than float32 has."""
    q, k, v = parts(2, jnp.float64)
    found = attention(q, k, v)
    for head in range(4):
        scores = np.einsum("bld,bsd->bls", q[:, :, head], k[:, :, head // 2]) / np.sqrt(WIDTH)
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        wanted = np.einsum("bls,bsd->bld", weights, v[:, :, head // 2])
        np.testing.assert_allclose(found[:, :, head], wanted, rtol=1e-13)


def test_heads_that_cannot_share_keys_are_refused():
    q, k, v = parts(3)
    with pytest.raises(ValueError, match="4 heads of queries cannot share 3 heads of keys evenly"):
        attention(q, k, v)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_norm_is_that_of_flax(dtype):
    x = jax.random.normal(jax.random.key(0), (2, 8), dtype) * 3
    flax = nnx.RMSNorm(8, epsilon=1e-3, use_scale=False, rngs=nnx.Rngs(0))
    found = rms_norm(x, epsilon=1e-3)
    assert found.dtype == x.dtype
    wide = [np.asarray(each, np.float32) for each in (found, flax(x))]
    np.testing.assert_allclose(*wide, rtol=1e-6 if dtype == "float32" else 1e-2)


def test_the_norm_of_zero_is_zero_and_has_a_gradient():
    value, slope = jax.value_and_grad(lambda x: rms_norm(x).sum())(jnp.zeros(4))
    assert value == 0
    assert np.isfinite(slope).all()
