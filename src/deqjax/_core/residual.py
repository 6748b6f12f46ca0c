"""How far a state is from its image: what stops a sample, and which of two iterates is better.

The relative residual says when to stop. It must not choose between iterates: it falls while an
iterate runs away, since ||f(z)|| grows with it, and does not fall on the way to z* = 0. The length
of the change f(z) - z does neither.
"""

import functools
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.types import PerSample, State

Stop: TypeAlias = Literal["relative", "absolute"]
Norm: TypeAlias = Literal["state", "leaf"]


class Measured(NamedTuple):
    """What one evaluation of f tells of z; both are not finite where f(z) is not."""

    change: PerSample  # (batch,) ||f(z) - z|| over all leaves, whatever is compared with tol
    residual: PerSample  # (batch,) what is compared with tol


def measure(z: State, fz: State, stop: Stop = "relative", norm: Norm = "state") -> Measured:
    """Measure z by its image.

    No gradient passes through it (and none of the infinite slope of a norm at zero).

    Args:
        z: leaves (batch, ...).
        fz: f(z), like z.
        stop: "relative" divides the change by ||f(z)||.
        norm: "state" takes one norm over all leaves, "leaf" the largest of the leaves' residuals.
    """
    z, fz = lax.stop_gradient((z, fz))
    difference = algebra.subtract(fz, z)
    change, size = algebra.norm(difference), algebra.norm(fz)
    if norm == "leaf":
        lengths = zip(_leaf_norms(difference), _leaf_norms(fz), strict=True)
        residual = functools.reduce(jnp.maximum, [_compared(*each, stop) for each in lengths])
    else:
        residual = _compared(change, size, stop)
    finite = jnp.isfinite(change) & jnp.isfinite(size)
    return Measured(jnp.where(finite, change, jnp.nan), jnp.where(finite, residual, jnp.nan))


def residual_norm(z: State, fz: State, stop: Stop = "relative", norm: Norm = "state") -> PerSample:
    """(batch,) the residual of z alone; NaN where f(z) or its norm is not finite."""
    return measure(z, fz, stop, norm).residual


def _leaf_norms(state: State) -> list[PerSample]:
    """(batch,) norms of the leaves, in the dtype that the whole state's norm has."""
    dtype = algebra.accumulation_dtype(state)
    return [algebra.norm(leaf).astype(dtype) for leaf in jax.tree.leaves(state)]


def _compared(change: PerSample, size: PerSample, stop: Stop) -> PerSample:
    if stop == "absolute":
        return change
    # f(z) = z = 0 is a fixed point, not 0 / 0
    info = jnp.finfo(size.dtype)
    ratio = change / jnp.where(size > 0, size, info.tiny)
    return jnp.where(change > 0, jnp.minimum(ratio, info.max), change)
