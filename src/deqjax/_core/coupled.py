"""What the reversible solver hands to the rule that undoes its steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deqjax._core.types import PerSample, State


class CoupledState(NamedTuple):
    """Where undoing a reversible solve starts, and which of its iterates the solution shows.

    Attributes:
        z: iterate of each sample, in at least float32; the returned one, or with a trajectory the
            last one at which f was finite.
        y: its partner, like z.
        step: (batch,) int32, updates that led to the pair.
        shown: (1 + rows, batch) int32, step of the returned iterate, then of each row of the
            trajectory.
        longest: () int32, the largest ``step``; of all replicas, where ``axis_name`` joins them.
        damping: () the relaxation beta.
    """

    z: State
    y: State
    step: PerSample
    shown: jax.Array
    longest: jax.Array
    damping: jax.Array


def in_full_width(f: Callable[..., State], z0: State) -> Callable[..., State]:
    """F on states of at least float32, evaluated in the dtypes of z0."""
    return lambda z, *args: in_width(f(like(z, z0), *args))


def in_width(z: State) -> State:
    """Cast each leaf to at least float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x, z)


def like(z: State, z0: State) -> State:
    """Cast each leaf to its dtype in z0."""
    return jax.tree.map(lambda x, x0: x.astype(x0.dtype), z, z0)
