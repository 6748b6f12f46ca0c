"""Per-sample algebra on states: pytrees whose leaves all have the batch as axis 0.

Sums over features run in float32, or in float64 if the state holds float64, whatever the
leaves' own dtype: bfloat16 cannot resolve a tolerance of 1e-3.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deqjax._core.types import PerSample, State


def accumulation_dtype(tree: State) -> np.dtype[Any]:
    """Dtype of residuals, Gram matrices and mixing weights: float32, or float64 for float64 z."""
    wide = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(tree))
    return np.dtype(np.float64 if wide else np.float32)


def batch_size(tree: State) -> int:
    """Length of axis 0, which all leaves share."""
    return int(jax.tree.leaves(tree)[0].shape[0])


def flat(leaf: jax.Array) -> jax.Array:
    """View a leaf (batch, ...) as (batch, features)."""
    return leaf.reshape(leaf.shape[0], -1)


def per_sample(values: PerSample, leaf: jax.Array) -> jax.Array:
    """Reshape values (batch,) so that they broadcast against a leaf (batch, ...)."""
    return values.reshape(values.shape[0], *(1,) * (leaf.ndim - 1))


def dot(a: State, b: State) -> PerSample:
    """Inner product of each sample's states over all leaves; (batch,), accumulated wide."""
    dtype = accumulation_dtype(a)

    def leaf_dot(x: jax.Array, y: jax.Array) -> PerSample:
        return jnp.sum(flat(x).astype(dtype) * flat(y).astype(dtype), axis=1)

    return total(jax.tree.map(leaf_dot, a, b))


def total(tree: Any) -> jax.Array:
    """Sum of the leaves, which all have one shape."""
    result: jax.Array = functools.reduce(operator.add, jax.tree.leaves(tree))
    return result


def norm(a: State) -> PerSample:
    """Euclidean norm of each sample's state over all leaves; (batch,).

    Squares of numbers beyond 1e-19 and 1e19 are none that float32 holds, so they are summed at
    three scales at once, and the one that holds is taken (after Blue, ACM Trans. Math. Softw.
    1978): right wherever the norm itself is a number, and rounded as the plain sum. This is one
    pass over the state, which fuses with what makes it; scaling by the largest entry is two.
    """
    dtype = accumulation_dtype(a)
    leaves = [flat(x).astype(dtype) for x in jax.tree.leaves(a)]

    def squares(part: Callable[[jax.Array], jax.Array]) -> PerSample:
        return total([jnp.sum(part(x) ** 2, axis=1) for x in leaves])

    # powers of two, which round nothing: 2^-80 and 2^80 in float32. Of all entries, not of those
    # that matter at a scale, XLA would square the scale first, which no number holds
    shift = 5 * jnp.finfo(dtype).maxexp // 8
    up, down = 2.0**shift, 2.0**-shift
    plain = squares(lambda x: x)
    large = squares(lambda x: jnp.where(jnp.abs(x) <= 1, 0, x * jnp.asarray(down, dtype)))
    small = squares(lambda x: jnp.where(jnp.abs(x) >= 1, 0, x * jnp.asarray(up, dtype)))
    # below 2^-80, squares of single entries may have vanished
    low, high = plain <= down, ~jnp.isfinite(plain)
    # a NaN is in the sums of all entries and of large ones
    chosen = jnp.where(low, small, jnp.where(high, large, plain))
    # one root, so that a gradient has none of the sums that do not hold
    found: PerSample = jnp.where(low, down, jnp.where(high, up, 1)) * jnp.sqrt(chosen)
    return found


def power_of_two(peak: PerSample) -> PerSample:
    """The power of two next to each number, so that rescaling by it rounds nothing; (batch,).

    One where the number is zero or not finite. Its reciprocal is a number, too.
    """
    info = jnp.finfo(peak.dtype)
    usual = (peak > 0) & jnp.isfinite(peak)
    bounded = jnp.clip(jnp.where(usual, peak, 1), 4 * info.tiny, info.max / 4)
    scale: PerSample = lax.reduce_precision(bounded, exponent_bits=info.nexp, mantissa_bits=0)
    return scale


def largest(a: State) -> PerSample:
    """Largest magnitude in each sample's state; (batch,). NaN where the sample has one."""
    dtype = accumulation_dtype(a)
    peaks = [jnp.max(jnp.abs(flat(x)), axis=1, initial=0).astype(dtype) for x in jax.tree.leaves(a)]
    result: PerSample = functools.reduce(jnp.maximum, peaks)
    return result


def subtract(a: State, b: State) -> State:
    """Elementwise a - b."""
    return jax.tree.map(operator.sub, a, b)


def add(a: State, b: State) -> State:
    """Elementwise a + b."""
    return jax.tree.map(operator.add, a, b)


def scale(values: PerSample, a: State) -> State:
    """Multiply each sample's state by its number, in the dtype of the leaf."""
    return jax.tree.map(lambda x: per_sample(values, x).astype(x.dtype) * x, a)


def rescale(state: State, values: PerSample) -> State:
    """Multiply each sample by its number, formed wide: float16 may not hold the number itself."""
    return jax.tree.map(
        lambda x: (x.astype(values.dtype) * per_sample(values, x)).astype(x.dtype), state
    )


def mix(z: State, fz: State, damping: Any) -> State:
    """(1 - damping) z + damping f(z): a damped step; damping 1 is f(z) itself, bit for bit."""
    if isinstance(damping, int | float) and damping == 1:
        return fz
    return jax.tree.map(lambda x, y: x + jnp.asarray(damping, x.dtype) * (y - x), z, fz)


def select(mask: PerSample, a: State, b: State) -> State:
    """Sample by sample: a where the mask holds, else b."""
    return jax.tree.map(lambda x, y: jnp.where(per_sample(mask, x), x, y), a, b)
