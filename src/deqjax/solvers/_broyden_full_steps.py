"""Broyden's method by full steps: a sample that runs away starts again from its best iterate."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.history import store
from deqjax._core.low_rank import LowRankInverse, identity_inverse
from deqjax._core.sharding import filled_per_sample, zeros_like
from deqjax._core.types import PerSample, Scalar, State
from deqjax.solvers._broyden_estimate import (
    forget,
    learn,
    outgrown,
    pair_between,
    products_of,
    propose,
)
from deqjax.solvers._loop import Pass

# a residual this many times the smallest is a runaway: Broyden's method often climbs a hundredfold
_GROWTH = 1e3
_SHORTER = 0.5


class Best(NamedTuple):
    """Where a sample restarts."""

    z: State
    residual: State  # f(z) - z
    size: PerSample  # (batch,) its length, infinite before the first evaluation


class Memory(NamedTuple):
    """Of one pass for the next."""

    base: State  # the last iterate
    residual: State  # f(base) - base
    best: Best
    stepped: PerSample  # (batch,) bool, whether z is a step from the base
    inverse: LowRankInverse  # left F, middle M^-1 (zero in empty slots), right S, scale c
    largest: PerSample  # (batch,) entry of M^-1


def init(z: State, rank: int) -> Memory:
    """Before the first pass: H = I, of no pairs."""
    inverse, zeros = identity_inverse(z, rank), zeros_like(z)
    unmeasured = filled_per_sample(z, jnp.inf, inverse.middle.dtype)
    never = filled_per_sample(z, 0, jnp.bool_)
    best = Best(z, zeros, unmeasured)
    return Memory(z, zeros, best, never, inverse, zeros_like(unmeasured))


def step(
    memory: Memory, z: State, fz: State, seen: Pass, *, damping: Scalar, keep: bool
) -> tuple[State, Memory]:
    """Step on, or from the best iterate where the residual has grown beyond it.

    Args:
        memory: as of the pass before.
        z: the iterate.
        fz: f(z).
        seen: the pass.
        damping: length of a step.
        keep: whether the columns of samples that have stopped are to stay.
    """
    inverse, before, dtype = memory.inverse, memory.best, seen.change.dtype
    rank = inverse.middle.shape[1]
    ran_away = (seen.change > _GROWTH * before.size) | outgrown(inverse, memory.largest)
    better = seen.change <= before.size
    learns = memory.stepped & jnp.isfinite(seen.change)
    slot = lax.rem(seen.number, jnp.int32(rank))
    ran_away, better, size, scale, index = lax.optimization_barrier(
        (
            ran_away,
            better,
            jnp.where(better, seen.change, before.size),
            jnp.where(ran_away, _SHORTER * inverse.scale, inverse.scale),
            # of one dtype with the others it is formed together with them
            jnp.where(learns, slot.astype(dtype), float(rank)),
        )
    )
    here, best = (z, algebra.subtract(fz, z)), (before.z, before.residual)
    # the way from the best iterate to the runaway is the only pair that is kept
    start = algebra.select(ran_away, best, (memory.base, memory.residual))
    pair = pair_between(start, here, scale, before.size, seen.change)
    base, residual = algebra.select(ran_away, best, here)
    products = products_of(pair, residual)
    best = algebra.select(better, here, best)
    # one pass over these states makes all that is needed of them
    pair, base, residual, best = lax.optimization_barrier((pair, base, residual, best))
    learned = learn(
        forget(inverse, ran_away)._replace(scale=scale),
        index,
        pair,
        products,
        residual,
        partial(store, slot=slot, keep=keep),
    )
    memory = memory._replace(
        base=base,
        residual=residual,
        best=Best(best[0], best[1], size),
        stepped=seen.goes_on,
        inverse=learned.inverse,
        largest=learned.largest,
    )
    return propose(base, residual, learned, damping), memory
