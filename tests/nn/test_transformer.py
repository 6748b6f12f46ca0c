"""Attention and feed-forward against formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.nn import FeedForward, SelfAttention

BATCH, LENGTH, WIDTH, HEADS = 2, 5, 8, 2


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def attention_in_numpy(z, injection, qkv, out, bias):
    """One head and one query position at a time, each looking at itself and what came before."""
    parts = z @ qkv + injection
    size = WIDTH // HEADS
    mixed = np.zeros_like(z)
    for head in range(HEADS):
        columns = slice(head * size, (head + 1) * size)
        q, k, v = (parts[..., i * WIDTH : (i + 1) * WIDTH][..., columns] for i in range(3))
        for sample in range(len(z)):
            for t in range(z.shape[1]):
                scores = k[sample, : t + 1] @ q[sample, t] / np.sqrt(size)
                share = np.exp(scores - scores.max())
                mixed[sample, t, columns] = share / share.sum() @ v[sample, : t + 1]
    return mixed @ out + bias


def test_attention_is_the_formula():
    attention = SelfAttention(WIDTH, HEADS, rngs=nnx.Rngs(0))
    attention.out.bias[...] = jnp.arange(WIDTH, dtype=jnp.float32)
    z, injection = arrays((BATCH, LENGTH, WIDTH), (BATCH, LENGTH, 3 * WIDTH))
    expected = attention_in_numpy(
        z, injection, attention.qkv.kernel[...], attention.out.kernel[...], attention.out.bias[...]
    )
    np.testing.assert_allclose(attention(z, injection), expected, rtol=1e-4, atol=1e-5)


def test_feed_forward_is_the_formula():
    layer = FeedForward(WIDTH, 12, rngs=nnx.Rngs(0))
    layer.up.bias[...] = jnp.linspace(-1, 1, 12)
    layer.down.bias[...] = jnp.linspace(0, 1, WIDTH)
    (h,) = arrays((BATCH, LENGTH, WIDTH))
    up, down = (np.asarray(part.kernel[...]) for part in (layer.up, layer.down))
    hidden = np.maximum(h @ up + np.linspace(-1, 1, 12), 0)
    expected = hidden @ down + np.linspace(0, 1, WIDTH)
    np.testing.assert_allclose(layer(h), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [SelfAttention, FeedForward])
def test_weight_scale_scales_the_weights(make):
    def kernels(scale):
        return jax.tree.leaves(nnx.state(make(WIDTH, 4, weight_scale=scale, rngs=nnx.Rngs(0))))

    for small, usual in zip(kernels(0.25), kernels(1.0), strict=True):
        np.testing.assert_allclose(small, 0.25 * usual, rtol=1e-5)


def test_the_unscaled_weights_keep_variance():
    """LeCun: variance 1 / fan-in."""
    kernel = FeedForward(64, 256, rngs=nnx.Rngs(0)).up.kernel[...]
    np.testing.assert_allclose(np.var(kernel) * 64, 1, rtol=0.05)


@pytest.mark.parametrize("heads", [3, 16, 0, -2])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    with pytest.raises(ValueError, match=rf"width 8 must be a multiple of heads {heads}\.") as info:
        SelfAttention(8, heads, rngs=nnx.Rngs(0))
    assert str(info.value).count(".") == 1


def test_attention_has_a_forward_derivative():
    """The Jacobian penalty needs one; some fused kernels have none."""
    attention = SelfAttention(WIDTH, HEADS, rngs=nnx.Rngs(0))
    z, injection = arrays((BATCH, LENGTH, WIDTH), (BATCH, LENGTH, 3 * WIDTH))
    _, slope = jax.jvp(lambda z: attention(z, injection), (z,), (jnp.ones_like(z),))
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0
