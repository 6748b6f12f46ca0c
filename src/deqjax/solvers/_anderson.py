"""Anderson acceleration, type II, one least-squares problem per sample."""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.history import (
    empty_columns,
    inner_products,
    store,
    stored,
    subtract_weighted_steps,
)
from deqjax._core.sharding import filled_per_sample
from deqjax._core.solution import Solution
from deqjax._core.types import Map, PerSample, Scalar, State
from deqjax._core.validate import check_count, check_not_negative
from deqjax.solvers._least_squares import solve_normal_equations
from deqjax.solvers._loop import LoopOptions, Pass, iterate

# a hundred times the rounding of the Gram matrix
_RIDGE_OF_FLOAT32 = 1e-5


class _History(NamedTuple):
    """The last m + 1 residuals and damped iterates, in a ring: step k writes slot k mod (m + 1)."""

    residuals: State  # factor g_k, g_k = f(z_k) - z_k, leaves (batch, m + 1, features)
    damped: State  # z_k + damping g_k, leaves (batch, m + 1, features)
    gram: jax.Array  # (batch, m, m), products of the differences of the residuals, newest first
    factor: PerSample  # (batch,) power of two near 1 / ||g_0||, so that squares are in range


def anderson(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    history: int = 6,
    ridge: Scalar | None = None,
    damping: Scalar = 1.0,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) by Anderson acceleration of type II.

    With g_k = f(z_k) - z_k and the last m differences dZ, dG of iterates and residuals,

        gamma_k = argmin ||g_k - dG gamma||^2,
        z_(k+1) = z_k + damping g_k - (dZ + damping dG) gamma_k

    (Walker & Ni, SIAM J. Numer. Anal. 2011, section 2; Anderson, J. ACM 1965). Each sample has its
    own gamma; its Gram matrix gains one row a step, and is formed of residuals in units of the
    first, so that it holds at any scale of z. Differences enter from the newest to the oldest; one
    whose angle to the span of those before it is at most 1e-5 (whose squared sine, plus the ridge,
    is at most max(1e-10, 4 m eps)) is left out (after Walker & Ni, section 4, and the filter of
    Pollock & Rebholz, IMA J. Numer. Anal. 2023).

    Memory: 2 m + 4 times |z|. Cost per step: one evaluation of f and about 4 m |z| multiply-adds.
    For linear f it matches GMRES(m); it may stall where the Jacobian is far from normal, and radii
    above 1 are within reach only if few eigenvalues lie outside the unit circle.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most updates of z, at least 1; may be traced.
        history: number m of differences kept, static.
        ridge: Tikhonov weight of the least-squares problem, relative to each column's scale; None
            is 1e-5 in float32 and 0 where z has float64, in which leaving out is enough.
        damping: step length along the residual in (0, 1]; 1 is undamped.
        **options: see [`deqjax.solvers.LoopOptions`][].

    Returns:
        [`deqjax.Solution`][] with the best finite iterate of each sample.

    Raises:
        ValueError, TypeError: a malformed problem, before anything is compiled.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.solvers import Status, anderson
        >>> def f(z):
        ...     return 0.9 * z + jnp.arange(1.0, 4.0)
        >>> solution = anderson(f, jnp.zeros((2, 3)), tol=1e-5, max_steps=30)
        >>> print(solution.value[0].round(2), solution.stats.steps)
        [10. 20. 30.] [2 2]
        >>> print(Status(int(solution.stats.status[0])).sentence)
        the residual fell to the tolerance
    """
    check_count("history", history)
    history = int(history)  # a shape: 6.0 is a count too
    if ridge is None:
        ridge = 0.0 if algebra.accumulation_dtype(z0) == jnp.float64 else _RIDGE_OF_FLOAT32
    check_not_negative("ridge", ridge)

    count = history + 1

    def init(z: State) -> _History:
        empty, dtype = empty_columns(z, count), algebra.accumulation_dtype(z)
        gram = filled_per_sample(z, jnp.zeros((history, history)), dtype)
        return _History(empty, empty, gram, filled_per_sample(z, 1, dtype))

    def step(memory: _History, z: State, fz: State, seen: Pass) -> tuple[State, _History]:
        index = seen.number
        newest, previous = index % count, (index - 1) % count
        factor = jnp.where(index == 0, 1 / algebra.power_of_two(seen.change), memory.factor)
        damped_now = algebra.mix(z, fz, damping)
        scaled = algebra.rescale(algebra.subtract(fz, z), factor)
        residuals = store(memory.residuals, scaled, newest)
        damped = store(memory.damped, damped_now, newest)
        # read back from the rings: a second use of f(z) - z would keep XLA from updating in place
        residual = stored(residuals, newest)
        latest_step = algebra.subtract(residual, stored(residuals, previous))
        used = (jnp.arange(history, dtype=index.dtype) < index)[None]

        def differences(products: jax.Array) -> jax.Array:
            """<g_k - g_(k-1), v>, newest first, from <g_j, v> of the slots."""
            aged = _backward_from(products, newest)
            return jnp.where(used, aged[:, :-1] - aged[:, 1:], 0)

        # with one factor a difference already, the other loses digits to first order only
        row = differences(inner_products(residuals, latest_step))
        gram = _prepend(row, memory.gram)
        weights = solve_normal_equations(
            gram, differences(inner_products(residuals, residual)), ridge
        )
        # as the differences from each slot to the next: none starts at the newest
        weights = _backward_from(jnp.pad(weights, ((0, 0), (0, 1))), previous)
        # weights are ready before the pass over the history, not formed again for each element
        weights = lax.optimization_barrier(weights)
        proposal = subtract_weighted_steps(damped_now, damped, weights)
        return proposal, _History(residuals, damped, gram, factor)

    solution, _ = iterate(f, z0, init=init, step=step, tol=tol, max_steps=max_steps, **options)
    return solution


def _backward_from(values: jax.Array, slot: jax.Array) -> jax.Array:
    """(batch, count): entry j is that of slot - j, around the ring."""
    count = values.shape[1]
    backward = values[:, ::-1]
    twice = jnp.concatenate([backward, backward], axis=1)
    return lax.dynamic_slice_in_dim(twice, count - 1 - slot, count, axis=1)


def _prepend(row: jax.Array, gram: jax.Array) -> jax.Array:
    """Move all one down and right, and let (batch, m) be the first row and column."""
    lower = jnp.concatenate([row[:, 1:, None], gram[:, :-1, :-1]], axis=2)
    return jnp.concatenate([row[:, None], lower], axis=1)
