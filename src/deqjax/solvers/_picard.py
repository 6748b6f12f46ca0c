"""Picard iteration: z <- f(z), damped."""

from typing import Unpack

from deqjax._core import algebra
from deqjax._core.solution import Solution
from deqjax._core.types import Map, Scalar, State
from deqjax.solvers._loop import LoopOptions, Pass, iterate


def picard(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    damping: Scalar = 1.0,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) by z_(k+1) = (1 - damping) z_k + damping f(z_k).

    Converges linearly, at the spectral radius of the damped Jacobian, and only if that is below 1.
    Memory: the iterate and the best iterate. Cost per step: one evaluation of f.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most updates of z, at least 1; may be traced.
        damping: step length in (0, 1]; 1 is the plain iteration.
        **options: see [`deqjax.solvers.LoopOptions`][].

    Returns:
        [`deqjax.Solution`][] with the best finite iterate of each sample.

    Raises:
        ValueError, TypeError: a malformed problem, before anything is compiled.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.solvers import Status, picard
        >>> solution = picard(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=1e-3, max_steps=30)
        >>> print(solution.value[0].round(2), solution.stats.steps)
        [2. 2. 2.] [9 9]
        >>> slow = picard(lambda z: 0.99 * z + 1, jnp.zeros((2, 3)), tol=1e-3, max_steps=30)
        >>> print(Status(int(slow.stats.status[0])).sentence)
        max_steps were taken before the residual fell to the tolerance
    """

    def step(memory: None, z: State, fz: State, seen: Pass) -> tuple[State, None]:
        del seen
        return algebra.mix(z, fz, damping), memory

    solution, _ = iterate(
        f, z0, init=lambda z: None, step=step, tol=tol, max_steps=max_steps, **options
    )
    return solution
