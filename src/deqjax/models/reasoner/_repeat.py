"""So many cycles and nothing else, for a pass whose end is measured anyway."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.algebra import batch_size
from deqjax._core.types import Scalar, State
from deqjax.solvers import Solution, Stats, Status


def repeat(
    f: Callable[..., State],
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    numbered: bool = False,
) -> Solution:
    """z_(k+1) = f(z_k), ``max_steps`` times: [`picard`][deqjax.solvers.picard] without measuring.

    That one evaluates f once more than it takes steps, to tell the residual where it ends. A pass
    of a few cycles that `truncated` goes on from, and measures at its end, is dearer by a quarter
    with it.

    Args:
        f: ``f(z) -> z'``, or with ``numbered`` ``f(z, step)``.
        z0: start, leaves (batch, ...).
        tol: is not looked at.
        max_steps: updates of z; may be traced.
        numbered: whether f takes the number of the step.

    Returns:
        The last state; its residual is infinite, since nothing measured it.
    """
    del tol
    steps = jnp.asarray(max_steps, jnp.int32)

    def step(number: jax.Array, z: State) -> State:
        return f(z, number) if numbered else f(z)

    end: Any = lax.fori_loop(jnp.int32(0), steps, step, z0)
    rows = jnp.zeros(batch_size(z0), jnp.int32)
    stats = Stats(
        rows + steps,
        jnp.full(rows.shape, jnp.inf, jnp.float32),
        rows + int(Status.STEP_LIMIT),
        steps,
        None,
    )
    return Solution(end, stats, None)
