"""Negative log-likelihood under a large softmax, without holding the logits of all tokens."""

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.manual_axes import vary, varying_axes

OUTSIDE = -1
"""The column of a token that is not to be counted."""
_SMALL = 4096
"""Below this many columns a chunk takes more tokens, so that it holds as many logits."""


def token_nll(
    states: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    *,
    softcap: float | None = None,
    chunk: int = 256,
) -> jax.Array:
    """-log softmax(states W^T)[targets], in nats: of a plain softmax over a table of tokens.

    The logits of at most ``chunk`` tokens are alive at a time, more of a table with fewer than 4096
    rows; the backward pass computes them again.

    Args:
        states: (..., width).
        table: W, (tokens, width).
        targets: integers (...,); one outside of the table gives NaN.
        softcap: logits are softcap * tanh(logits / softcap); None is the logits themselves.
        chunk: see above, at least 1.

    Returns:
        Like targets, float32 (float64 for float64 states).
    """
    x, column = states.reshape(-1, states.shape[-1]), targets.reshape(-1).astype(jnp.int32)
    column = jnp.where(column < 0, len(table), column)
    rows = rows_of_a_chunk(chunk, len(table))
    if len(x) <= rows:
        nll = dense_nll(x, table, None, column, softcap)
    else:
        nll = chunked_nll(x, table, None, column, softcap, chunk=rows)
    return nll.reshape(targets.shape)


def rows_of_a_chunk(chunk: int, columns: int) -> int:
    """Tokens whose logits are alive at a time, for so many columns."""
    return chunk * max(1, _SMALL // columns)


def dense_nll(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    column: jax.Array,
    softcap: float | None = None,
) -> jax.Array:
    """-log softmax(x W^T + b)[column], all logits at once.

    Args:
        x: (tokens, d).
        weight: W, (columns, d).
        bias: b, (columns,); None is zero.
        softcap: see `token_logits`.
        column: integers (tokens,); OUTSIDE gives 0 without gradient, another number outside of
            the columns NaN.

    Returns:
        (tokens,) in nats, float32 (float64 for float64 x).
    """
    logits = token_logits(x, weight, bias, softcap=softcap)
    picked = jnp.take_along_axis(logits, column[:, None], axis=1, mode="fill")[:, 0]
    nll = jax.nn.logsumexp(logits, axis=1) - picked
    return jnp.where(column == OUTSIDE, jnp.zeros_like(nll), nll)


def chunked_nll(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    column: jax.Array,
    softcap: float | None = None,
    *,
    chunk: int,
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
            lambda: dense_nll(x, weight, bias, column, softcap),
            lambda: vary(jnp.zeros(rows, accumulator(x)), axes),
        )

    nll: jax.Array = lax.scan(step, None, (x, column))[1]
    return nll.reshape(-1)[:tokens]


def _rows(tokens: int, chunk: int) -> int:
    """Chunks of equal size, so that little is padded, in multiples of 8 that matrix units like."""
    chunks = max(1, -(-tokens // chunk))
    even = -(-tokens // chunks)
    return max(1, min(chunk, even + -even % 8))


def token_logits(
    x: jax.Array, table: jax.Array, bias: jax.Array | None = None, *, softcap: float | None = None
) -> jax.Array:
    """X W^T + b, (..., columns) for x (..., d): multiplied in x's dtype, summed in float32.

    Args:
        x: (..., d).
        table: W, (columns, d).
        bias: b, (columns,); None is zero.
        softcap: the result is softcap * tanh(logits / softcap); None is the logits themselves.

    Returns:
        float32 (float64 for float64 x).
    """
    logits = jnp.einsum(
        "...d,vd->...v", x, table.astype(x.dtype), preferred_element_type=accumulator(x)
    )
    if bias is not None:
        logits = logits + jnp.broadcast_to(bias.astype(logits.dtype), logits.shape)
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def accumulator(x: jax.Array) -> jnp.dtype:
    """Float32, or float64 for float64."""
    dtype: jnp.dtype = jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    return dtype
