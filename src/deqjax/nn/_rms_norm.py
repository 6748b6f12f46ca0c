"""Normalization by the root mean square.

Zhang & Sennrich, NeurIPS 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467.
"""

import jax
import jax.numpy as jnp
from jax import lax


def rms_norm(x: jax.Array, *, epsilon: float | None = None) -> jax.Array:
    """X / sqrt(mean(x^2) + epsilon) over the features, without parameters.

    Args:
        x: (..., features).
        epsilon: None is the machine epsilon of the dtype in which the mean is taken.

    Returns:
        Like x, in its dtype; the mean is taken in float32 at least.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    epsilon = float(jnp.finfo(wide.dtype).eps) if epsilon is None else epsilon
    square = jnp.mean(wide**2, axis=-1, keepdims=True)
    return (wide * lax.rsqrt(square + epsilon)).astype(x.dtype)
