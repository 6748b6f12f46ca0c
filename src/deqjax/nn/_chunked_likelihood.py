"""Negative log-likelihood under a large softmax, without holding the logits of all tokens."""

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.manual_axes import vary, varying_axes

OUTSIDE = -1
"""The column of a token that is not to be counted."""


def dense_nll(x: jax.Array, weight: jax.Array, bias: jax.Array, column: jax.Array) -> jax.Array:
    """-log softmax(x W^T + b)[column], all logits at once.

    Args:
        x: (tokens, d).
        weight: W, (columns, d).
        bias: b, (columns,).
        column: integers (tokens,); OUTSIDE gives 0 without gradient, another number outside of
            the columns NaN.

    Returns:
        (tokens,) in nats, float32 (float64 for float64 x).
    """
    logits = logits_of(x, weight, bias)
    picked = jnp.take_along_axis(logits, column[:, None], axis=1, mode="fill")[:, 0]
    nll = jax.nn.logsumexp(logits, axis=1) - picked
    return jnp.where(column == OUTSIDE, jnp.zeros_like(nll), nll)


def chunked_nll(
    x: jax.Array, weight: jax.Array, bias: jax.Array, column: jax.Array, *, chunk: int
) -> jax.Array:
    """What `dense_nll` computes, with the logits of at most ``chunk`` tokens alive.

    The backward pass computes each chunk's logits again and sums the gradients of W and b chunk by
    chunk. A chunk of OUTSIDE tokens only is skipped both ways, so let the others stand together.
    """
    # Replicated weights are marked as per-device ones here: the transpose of this mark sums their
    # gradients over the devices, and inside of the loop devices would wait for one that skips.
    axes = varying_axes((x, weight, bias, column))
    x, weight, bias, column = vary((x, weight, bias, column), axes)
    tokens, width = x.shape
    rows = _rows(tokens, chunk)
    padding = -tokens % rows
    x = jnp.pad(x, ((0, padding), (0, 0))).reshape(-1, rows, width)
    column = jnp.pad(column, (0, padding), constant_values=OUTSIDE).reshape(-1, rows)

    @jax.checkpoint
    def step(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        x, column = part
        return None, lax.cond(
            jnp.any(column != OUTSIDE),
            lambda: dense_nll(x, weight, bias, column),
            lambda: vary(jnp.zeros(rows, accumulator(x)), axes),
        )

    nll: jax.Array = lax.scan(step, None, (x, column))[1]
    return nll.reshape(-1)[:tokens]


def _rows(tokens: int, chunk: int) -> int:
    """Chunks of equal size, so that little is padded, in multiples of 8 that matrix units like."""
    chunks = max(1, -(-tokens // chunk))
    even = -(-tokens // chunks)
    return max(1, min(chunk, even + -even % 8))


def logits_of(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """X W^T + b, (..., columns) for x (..., d): multiplied in x's dtype, summed in float32."""
    products = jnp.einsum(
        "...d,vd->...v", x, weight.astype(x.dtype), preferred_element_type=accumulator(x)
    )
    return products + jnp.broadcast_to(bias.astype(products.dtype), products.shape)


def accumulator(x: jax.Array) -> jnp.dtype:
    """Float32, or float64 for float64."""
    dtype: jnp.dtype = jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    return dtype
