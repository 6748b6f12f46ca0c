"""Anderson acceleration, type II, one least-squares problem per sample."""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from deqjax import _tree
from deqjax._sharding import filled_per_sample
from deqjax._types import Map, Scalar, State
from deqjax.solvers._history import (
    empty_columns,
    inner_products,
    store,
    stored,
    subtract_weighted_steps,
)
from deqjax.solvers._least_squares import solve_normal_equations
from deqjax.solvers._loop import LoopOptions, Pass, iterate
from deqjax.solvers._solution import Solution
from deqjax.solvers._validate import check_count, check_not_negative


class _History(NamedTuple):
    """The last m + 1 residuals and damped iterates, in a ring: step k writes slot k mod (m + 1).

    Difference j leads from slot j to the next one. The newest slot starts none.
    """

    residuals: State  # g_k = f(z_k) - z_k, leaves (batch, m + 1, features)
    damped: State  # z_k + damping g_k, leaves (batch, m + 1, features)
    gram: jax.Array  # (batch, m + 1, m + 1), inner products of the differences of the residuals


def anderson(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    history: int = 6,
    ridge: Scalar = 1e-5,
    damping: Scalar = 1.0,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) by Anderson acceleration of type II.

    With g_k = f(z_k) - z_k and the last m differences dZ, dG of iterates and residuals,

        gamma_k = argmin ||g_k - dG gamma||^2,
        z_(k+1) = z_k + damping g_k - (dZ + damping dG) gamma_k

    (Walker & Ni, SIAM J. Numer. Anal. 2011, section 2; Anderson, J. ACM 1965). Each sample has its
    own gamma; its Gram matrix gains one row a step. Where a sample's system is ill-conditioned even
    with the ridge, that sample takes the plain damped step.

    Memory: 2 m + 4 times |z|. Cost per step: one evaluation of f and about 4 m |z| multiply-adds.
    For linear f it matches GMRES(m); it may stall where the Jacobian is far from normal, and radii
    above 1 are within reach only if few eigenvalues lie outside the unit circle.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most updates of z, at least 1; may be traced.
        history: number m of differences kept, static.
        ridge: Tikhonov weight of the least-squares problem, relative to each column's scale.
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
    check_not_negative("ridge", ridge)

    count = history + 1

    def init(z: State) -> _History:
        empty, none = empty_columns(z, count), jnp.zeros((count, count))
        return _History(empty, empty, filled_per_sample(z, none, _tree.accumulation_dtype(z)))

    def step(memory: _History, z: State, fz: State, seen: Pass) -> tuple[State, _History]:
        index = seen.number
        newest, previous = index % count, (index - 1) % count
        damped_now = _tree.mix(z, fz, damping)
        residuals = store(memory.residuals, _tree.subtract(fz, z), newest)
        damped = store(memory.damped, damped_now, newest)
        # read back from the rings: a second use of f(z) - z would keep XLA from updating in place
        residual = stored(residuals, newest)
        latest_step = _tree.subtract(residual, stored(residuals, previous))

        slots = jnp.arange(count, dtype=index.dtype)
        used = ((slots < index) | (index >= count)) & (slots != newest)

        def differences(products: jax.Array) -> jax.Array:
            """<g_(j+1) - g_j, v> from <g_j, v>."""
            return jnp.where(used[None], jnp.roll(products, -1, axis=1) - products, 0)

        # with one factor a difference already, the other loses digits to first order only
        row = differences(inner_products(residuals, latest_step))
        gram = lax.dynamic_update_index_in_dim(memory.gram, row, previous, axis=1)
        gram = lax.dynamic_update_index_in_dim(gram, row, previous, axis=2)
        weights, _ = solve_normal_equations(
            jnp.where((used[:, None] & used[None])[None], gram, 0),
            differences(inner_products(residuals, residual)),
            ridge,
        )
        # weights are ready before the pass over the history, not formed again for each element
        weights = lax.optimization_barrier(weights)
        proposal = subtract_weighted_steps(damped_now, damped, weights)
        return proposal, _History(residuals, damped, gram)

    solution, _ = iterate(f, z0, init=init, step=step, tol=tol, max_steps=max_steps, **options)
    return solution
