"""Enlarging feature maps."""

import jax
import jax.numpy as jnp
import numpy as np


def enlarge_nearest(x: jax.Array, factor: int) -> jax.Array:
    """Repeat each pixel of x (batch, height, width, channels) ``factor`` times along both axes."""
    batch, height, width, channels = x.shape
    repeated = jnp.broadcast_to(
        x[:, :, None, :, None, :], (batch, height, factor, width, factor, channels)
    )
    return repeated.reshape(batch, height * factor, width * factor, channels)


def resize_bilinear(x: jax.Array, height: int, width: int) -> jax.Array:
    """Interpolate x (batch, height, width, channels) bilinearly, with aligned corners.

    Along an axis, output i of n reads position i (m - 1) / (n - 1) of m: the outermost pixels of
    both images coincide.
    """
    return _interpolate(_interpolate(x, 1, height), 2, width)


def _interpolate(x: jax.Array, axis: int, outputs: int) -> jax.Array:
    inputs = x.shape[axis]
    if inputs == outputs:
        return x
    positions = np.linspace(0, inputs - 1, outputs) if outputs > 1 else np.zeros(1)
    below = np.minimum(positions.astype(int), max(inputs - 2, 0))
    above = np.minimum(below + 1, inputs - 1)
    shape = [outputs if other == axis else 1 for other in range(x.ndim)]
    share = jnp.asarray((positions - below).reshape(shape), x.dtype)
    return (1 - share) * jnp.take(x, below, axis) + share * jnp.take(x, above, axis)
