"""The layer that a reasoner's level stacks: mixing over tokens, and a gated feed-forward."""

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models._tokens import check_rows
from deqjax.models.reasoner._shape import ReasonerShape
from deqjax.nn import Weight, attention, divided, rms_norm, rotary_angles, rotate


class SwiGLU(nnx.Module):
    """(silu(g) * u) W_down with [g, u] = x W_up, without biases.

    Args:
        width: features of x, W.
        hidden: of g and of u.
        rngs: stream "params".

    Attributes:
        up: (W, 2 hidden), for g and then for u.
        down: (hidden, W).
    """

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.up = Weight(width, 2 * hidden, rngs=rngs)
        self.down = Weight(hidden, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of x (..., W), in its dtype."""
        gate, value = jnp.split(x @ self.up().astype(x.dtype), 2, axis=-1)
        return (jax.nn.silu(gate) * value) @ self.down().astype(x.dtype)


class Attention(nnx.Module):
    """Attention of every token to all of them, with rotary positions and without biases.

    Attributes:
        qkv: (D, 3 D): queries of all heads, keys, values.
        out: (D, D).
    """

    def __init__(self, shape: ReasonerShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        self.qkv = Weight(shape.width, 3 * shape.width, rngs=rngs)
        self.out = Weight(shape.width, shape.width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of x (batch, N, D), in its dtype."""
        heads = (3, self.shape.heads, self.shape.width // self.shape.heads)
        qkv = (x @ self.qkv().astype(x.dtype)).reshape(*x.shape[:2], *heads)
        q, k, v = (divided(part, 2) for part in jnp.moveaxis(qkv, 2, 0))
        mixed = attention(self._placed(q), self._placed(k), v)
        return mixed.reshape(x.shape) @ self.out().astype(x.dtype)

    def _placed(self, x: jax.Array) -> jax.Array:
        """Queries or keys (batch, N, heads, h), turned by where they are."""
        (length, _, width), base = x.shape[1:], self.shape.rotary_base
        match self.shape.positions:
            case "rotary":
                angles = rotary_angles(jnp.arange(length), width, base=base)
                return rotate(x, angles, pairs="halves")
            case "rotary_2d":
                _, columns = _board(self.shape, length)
                at = jnp.arange(length)
                by_row, by_column = (
                    rotate(part, rotary_angles(t, width // 2, base=base), pairs="halves")
                    for part, t in zip(
                        jnp.split(x, 2, axis=-1), (at // columns, at % columns), strict=True
                    )
                )
                return jnp.concatenate([by_row, by_column], axis=-1)
            case "none":
                return x


class ReasonerLayer(nnx.Module):
    """t' = rms(t + mix(t)), then rms(t' + SwiGLU(t')), without parameters in the norms.

    Mixing by a gated feed-forward works on the transposed t, and so does the norm after it.

    Args:
        shape: sizes and options.
        rngs: stream "params".

    Attributes:
        mix: attention, or a [`SwiGLU`][deqjax.models.SwiGLU] over the positions.
        feed_forward: over the features.
    """

    def __init__(self, shape: ReasonerShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        if shape.mixing == "mlp":
            self.mix: SwiGLU | Attention = SwiGLU(shape.side, shape.hidden(shape.side), rngs=rngs)
        else:
            self.mix = Attention(shape, rngs=rngs)
        self.feed_forward = SwiGLU(shape.width, shape.hidden(shape.width), rngs=rngs)

    def __call__(self, t: jax.Array) -> jax.Array:
        """Of t (batch, N, D), in its dtype."""
        across = self.shape.mixing == "mlp"
        # over the positions everything is, the norm too
        t = t.swapaxes(1, 2) if across else t
        t = self._norm(t + self._in_dtype(self.mix, t))
        t = t.swapaxes(1, 2) if across else t
        return self._norm(t + self._in_dtype(self.feed_forward, t))

    def _in_dtype(self, part: Attention | SwiGLU, t: jax.Array) -> jax.Array:
        dtype = jnp.bfloat16 if self.shape.dtype == "bfloat16" else t.dtype
        return part(t.astype(dtype)).astype(t.dtype)

    def _norm(self, t: jax.Array) -> jax.Array:
        return rms_norm(t, epsilon=self.shape.norm_eps)


def _board(shape: ReasonerShape, length: int) -> tuple[int, int]:
    if shape.board is None:
        raise ValueError(
            "positions 'rotary_2d' need the rows and columns of the board; give board."
        )
    rows, columns = shape.board
    if rows * columns != length:
        raise ValueError(
            f"a puzzle of {length} tokens is no board of {rows} x {columns}; give its board."
        )
    return rows, columns


def check_puzzles(tokens: jax.Array, shape: ReasonerShape) -> None:
    """Raise a ValueError for tokens that a network of this shape cannot take."""
    check_rows(tokens)
    length = tokens.shape[1]
    if shape.mixing == "mlp" and length != shape.side:
        raise ValueError(
            f"mixing 'mlp' was built for puzzles of {shape.side} tokens, got {length}; only a "
            "network with attention takes other lengths."
        )
    if shape.mixing == "attention" and shape.positions == "rotary_2d":
        _board(shape, length)
