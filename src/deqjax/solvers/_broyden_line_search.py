"""Broyden's method with a line search: steps are halved until they shrink the residual."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.history import store_each
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

# a step of length t has to shrink ||g|| by the factor 1 - 1e-4 t (Kelley 2003, section 1.6)
_SUFFICIENT_DECREASE = 1e-4
_MOST_BACKTRACKS = 5


class Memory(NamedTuple):
    """Of one pass for the next; samples differ in their pace."""

    base: State  # the last accepted iterate
    residual: State  # f(base) - base
    size: PerSample  # (batch,) its length, infinite before the first evaluation
    stepped: PerSample  # (batch,) bool, whether z is a step from the base
    backtracks: PerSample  # (batch,) int32, halvings of the step that left the base
    slot: PerSample  # (batch,) int32, of the oldest pair
    inverse: LowRankInverse  # left F, middle M^-1 (zero in empty slots), right S, scale c
    largest: PerSample  # (batch,) entry of M^-1


def init(z: State, rank: int) -> Memory:
    """Before the first pass: H = I, of no pairs."""
    inverse, zeros = identity_inverse(z, rank), zeros_like(z)
    unmeasured = filled_per_sample(z, jnp.inf, inverse.middle.dtype)
    none, never = (filled_per_sample(z, 0, dtype) for dtype in (jnp.int32, jnp.bool_))
    return Memory(z, zeros, unmeasured, never, none, none, inverse, zeros_like(unmeasured))


def step(
    memory: Memory, z: State, fz: State, seen: Pass, *, damping: Scalar
) -> tuple[State, Memory]:
    """A new step where the one tried shrinks the residual enough, half of it elsewhere.

    Args:
        memory: as of the pass before.
        z: the point that is tried.
        fz: f(z).
        seen: the pass.
        damping: length of a full step.
    """
    size, slot, rank = memory.size, memory.slot, memory.inverse.middle.shape[1]
    length = jnp.asarray(damping, size.dtype) * jnp.exp2(-memory.backtracks.astype(size.dtype))
    accepted = seen.change <= (1 - _SUFFICIENT_DECREASE * length) * size
    accepted |= memory.backtracks >= _MOST_BACKTRACKS
    # a sample that stops here keeps its z: rejected, it would go on backtracking on the spot
    accepted |= ~seen.goes_on
    here, start = (z, algebra.subtract(fz, z)), (memory.base, memory.residual)
    pair = pair_between(start, here, memory.inverse.scale, size, seen.change)
    base, residual = algebra.select(accepted, here, start)
    # where rejected, there is nothing to learn
    learns = accepted & memory.stepped
    learned = learn(
        forget(memory.inverse, outgrown(memory.inverse, memory.largest)),
        jnp.where(learns, slot, rank),
        pair,
        products_of(pair, residual),
        residual,
        partial(store_each, slot=slot),
    )
    memory = memory._replace(
        base=base,
        residual=residual,
        size=jnp.where(accepted, seen.change, size),
        stepped=seen.goes_on,
        backtracks=jnp.where(accepted, 0, memory.backtracks + 1),
        slot=jnp.where(learns, lax.rem(slot + 1, jnp.int32(rank)), slot),
        inverse=learned.inverse,
        largest=learned.largest,
    )
    halved = algebra.mix(start[0], z, 0.5)
    return algebra.select(accepted, propose(base, residual, learned, damping), halved), memory
