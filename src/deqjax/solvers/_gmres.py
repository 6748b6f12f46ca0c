"""GMRES for affine maps, made for the backward solve of implicit differentiation."""

import math
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from deqjax._core import algebra
from deqjax._core.sharding import filled_per_sample
from deqjax._core.solution import Solution
from deqjax._core.types import Map, PerSample, Scalar, State
from deqjax._core.validate import check_count
from deqjax.solvers._krylov import solve_linear
from deqjax.solvers._loop import LoopOptions, Pass, by_number, iterate

# a cycle's length where nobody says: all steps, if they are known and not too many to keep
_UNKNOWN, _MOST = 30, 100


class _Spent(NamedTuple):
    sample: PerSample  # (batch,) int32, products that the sample used
    batch: jax.Array  # () int32, products on the whole batch


def gmres(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    restart: int | None = None,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) for affine f by restarted GMRES: ``adjoints.implicit(solver=gmres)``.

    Each cycle evaluates f, whose residual is the true one, linearizes it and minimizes
    ||f(z) - z - (I - J) d|| over a Krylov space of at most ``restart`` dimensions, one product with
    J = df/dz each; then z <- z + d (Saad & Schultz, SIAM J. Sci. Stat. Comput. 1986, algorithm 4).
    Within a cycle no method that uses as many products leaves a smaller residual, and a spectral
    radius above 1 does not hinder it; a restart forgets, so that with cycles shorter than the solve
    Anderson's method may get ahead. So one cycle lasts as long as the solve where that is known
    and at most 100 steps: ``implicit(solver=gmres)`` hands its step limit over as a run-time
    value, and has cycles of 30 unless ``restart`` is given. For f that is not affine this is
    Newton's method without safeguards: use [`deqjax.solvers.newton_krylov`][], or look at the
    residual, which is measured.

    Memory: restart + 4 times |z|, and what linearizing f keeps. Cost per step: one product with J
    and about 4 restart |z| multiply-adds. f must be differentiable in forward mode.

    Args:
        f: ``f(z) -> z'``, affine, on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most products with J, at least 1, in at most one cycle more than it takes to
            spend them in full cycles; may be traced.
        restart: most products of a cycle, static. None takes ``max_steps`` where that is a Python
            int, at most 100, and else 30, but never more than a sample has numbers.
        **options: see [`deqjax.solvers.LoopOptions`][]; the rows of a trace and the steps of a
            trajectory are cycles, and so is the step that a numbered f sees.

    Returns:
        [`deqjax.Solution`][] with the best finite iterate of each sample. ``stats.steps`` are
        products with J that the sample used, ``stats.evaluations`` evaluations of f and products
        on the whole batch, added.

    Raises:
        ValueError, TypeError: a malformed problem, or ``differentiable=True``: reverse mode cannot
            pass the inner loop.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.solvers import gmres
        >>> def f(w):  # affine, as the backward system is; three eigenvalues take three steps
        ...     return jnp.array([0.5, -3.0, 0.75]) * w + 1
        >>> solution = gmres(f, jnp.zeros((2, 3)), tol=1e-5, max_steps=30)
        >>> print(solution.value[0].round(2), solution.stats.steps)
        [2.   0.25 4.  ] [3 3]
    """
    if restart is not None:
        check_count("restart", restart)
    if options.get("differentiable"):
        raise ValueError(
            "gmres cannot be unrolled (differentiable=True): use anderson or picard for that, or "
            "an adjoint that does not unroll the solver."
        )
    check_count("max_steps", max_steps, least=0, single=False)
    size = _cycle(z0, max_steps) if restart is None else int(restart)
    most = jnp.asarray(max_steps, jnp.int32)
    # one cycle more, for a sample whose estimated residual was a little below the true one
    cycles = jnp.minimum(most, (most + size - 1) // size + 1)
    stop = options.get("stop", "relative")

    numbered_f = by_number(f, options.get("numbered", False))

    def init(z: State) -> _Spent:
        return _Spent(filled_per_sample(z, 0, jnp.int32), jnp.int32(0))

    def step(memory: _Spent, z: State, fz: State, seen: Pass) -> tuple[State, _Spent]:
        right, length = algebra.subtract(fz, z), seen.change
        goal = jnp.asarray(tol, length.dtype)
        _, jacobian = jax.linearize(lambda z: numbered_f(z, seen.number), z)
        found = solve_linear(
            lambda v: algebra.subtract(v, jacobian(v)),
            right,
            tol=goal if stop == "relative" else goal / jnp.where(length > 0, length, 1),
            limit=jnp.where(seen.goes_on, most - memory.sample, 0),
            size=size,
            near=z if stop == "relative" else None,
            axis_name=options.get("axis_name"),
        )
        spent = _Spent(memory.sample + found.steps, memory.batch + found.products)
        return algebra.add(z, found.value), spent

    solution, spent = iterate(f, z0, init=init, step=step, tol=tol, max_steps=cycles, **options)
    evaluations = solution.stats.evaluations + spent.batch
    return solution._replace(
        stats=solution.stats._replace(steps=spent.sample, evaluations=evaluations)
    )


def _cycle(z0: State, max_steps: Scalar) -> int:
    """Length of a cycle that keeps all that a solve can use, within limits."""
    leaves = jax.tree.leaves(z0)
    known = not isinstance(max_steps, jax.Array)
    wanted = min(int(np.max(max_steps)), _MOST) if known else _UNKNOWN
    # a malformed state is the loop's to name
    numbers = sum(math.prod(jnp.shape(leaf)[1:]) for leaf in leaves)
    return max(min(wanted, numbers), 1)
