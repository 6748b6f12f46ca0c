"""Stablemax: a softmax whose numbers grow linearly, so that no logit needs to run away.

Prieto, Barsbey, Mediano & Birdal 2025, "Grokking at the Edge of Numerical Stability", arXiv
2501.04697, section 4.
"""

import jax
import jax.numpy as jnp


def log_stablemax(logits: jax.Array) -> jax.Array:
    """log(s(x) / sum s(x)) over the last axis, with s(x) = x + 1 for x >= 0, 1 / (1 - x) below.

    Args:
        logits: (..., classes), floating point.

    Returns:
        Like the logits, float32 at least.
    """
    x = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    above, below = jnp.maximum(x, 0), jnp.maximum(-x, 0)
    # where x is 0 each of the two has half of the slope, which is 1
    logs = jnp.log1p(above) - jnp.log1p(below)
    total = jnp.sum((1 + above) / (1 + below), axis=-1, keepdims=True)
    return logs - jnp.log(total)


def stablemax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log of the stablemax of the right class.

    Args:
        logits: (..., classes), floating point.
        labels: (...) int.

    Returns:
        (...) float32 at least.
    """
    logs = log_stablemax(logits)
    return -jnp.take_along_axis(logs, labels[..., None], axis=-1)[..., 0]
