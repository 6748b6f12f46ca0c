"""Rotary positions: queries and keys are turned, so that their products tell the distance.

Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864,
section 3.2.
"""

from typing import Literal

import jax
import jax.numpy as jnp


def rotary_angles(positions: jax.Array, width: int, *, base: float = 10_000.0) -> jax.Array:
    """The angles t base^(-2i / width) of positions t, i = 0, ..., width / 2 - 1.

    Args:
        positions: (length,) of any real dtype.
        width: features of a head, or of the part of it that is turned; even.
        base: a larger one tells positions apart that are further from each other.

    Returns:
        (length, width / 2) float32.

    Raises:
        ValueError: an odd width.
    """
    if width % 2:
        raise ValueError(
            f"rotary positions turn pairs of features: the width of a head must be even, got "
            f"{width}."
        )
    frequencies = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    return positions.astype(jnp.float32)[:, None] * frequencies


def rotate(x: jax.Array, angles: jax.Array, *, pairs: Literal["neighbours", "halves"]) -> jax.Array:
    """Turn each pair (a, b) of features: (a cos - b sin, b cos + a sin).

    Args:
        x: (batch, length, heads, width).
        angles: (length, width / 2), of `rotary_angles`.
        pairs: which features are one: "neighbours" are 2i and 2i + 1, "halves" are i and
            i + width / 2. Weights that were trained with one are wrong with the other.

    Returns:
        Like x, in its dtype; turned in float32 at least.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    axis = -1 if pairs == "neighbours" else -2
    parts = (-1, 2) if pairs == "neighbours" else (2, -1)
    paired = x.astype(dtype).reshape(*x.shape[:-1], *parts)
    a, b = jnp.moveaxis(paired, axis, 0)
    cos, sin = (turn(angles.astype(dtype))[:, None] for turn in (jnp.cos, jnp.sin))
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis)
    return turned.reshape(x.shape).astype(x.dtype)
