"""The two halves of a Transformer layer, without residual connection and normalization."""

import jax
from flax import nnx


class SelfAttention(nnx.Module):
    """Causal multi-head attention whose queries, keys and values get an additive injection.

    out = W_o softmax(q k^T / sqrt(d_head) + mask) v with [q, k, v] = W_qkv z + injection
    (Bai, Kolter & Koltun, NeurIPS 2019, section 4).
    """

    def __init__(
        self, width: int, heads: int, *, weight_scale: float = 1.0, rngs: nnx.Rngs
    ) -> None:
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}.")
        self.heads = heads
        init = _scaled(weight_scale)
        self.qkv = nnx.Linear(width, 3 * width, use_bias=False, kernel_init=init, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=init, rngs=rngs)

    def __call__(self, z: jax.Array, injection: jax.Array) -> jax.Array:
        """Attend; z (batch, length, width), injection (batch, length, 3 width)."""
        batch, length, width = z.shape
        parts = (self.qkv(z) + injection).reshape(batch, length, 3, self.heads, -1)
        q, k, v = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
        # cuDNN's kernel has no forward-mode rule, which the Jacobian penalty needs
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="xla")
        return self.out(mixed.reshape(batch, length, width))


class FeedForward(nnx.Module):
    """W_2 relu(W_1 h + b_1) + b_2, position by position."""

    def __init__(
        self, width: int, hidden: int, *, weight_scale: float = 1.0, rngs: nnx.Rngs
    ) -> None:
        init = _scaled(weight_scale)
        self.up = nnx.Linear(width, hidden, kernel_init=init, rngs=rngs)
        self.down = nnx.Linear(hidden, width, kernel_init=init, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        """Transform h (..., width)."""
        return self.down(nnx.relu(self.up(h)))


def _scaled(scale: float) -> jax.nn.initializers.Initializer:
    """LeCun's initializer with the standard deviation times ``scale``."""
    return jax.nn.initializers.variance_scaling(scale**2, "fan_in", "normal")
