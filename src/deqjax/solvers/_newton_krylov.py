"""Newton's method with GMRES, safeguarded sample by sample."""

import math
from functools import partial
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp

from deqjax._core import algebra
from deqjax._core.sharding import filled_per_sample, zeros_like
from deqjax._core.solution import Solution
from deqjax._core.types import Map, PerSample, Scalar, State
from deqjax._core.validate import check_count, check_not_negative
from deqjax.solvers._forgiving import largest_number, measure_forgiving, report_truly
from deqjax.solvers._krylov import LinearSolution, solve_linear
from deqjax.solvers._loop import LoopOptions, Pass, by_number, iterate

# the share of the predicted decrease of ||g|| that a step must keep (Kelley 1995, section 8.1)
_SUFFICIENT = 1e-4
# numbers of a sample whose whole space costs next to no memory, and dimensions where it would
_SMALL, _OF_LARGE = 100, 20


class _Search(NamedTuple):
    """Where a sample searches: at base + length * direction, which is the loop's iterate."""

    base: State  # last accepted iterate
    residual: State  # g(base) = f(base) - base
    direction: State  # approximate Newton step from base, or g(base)
    norm: PerSample  # (batch,) ||g(base)||, infinite before the first evaluation
    forcing: PerSample  # (batch,) eta, tolerance of the last linear solve
    length: PerSample  # (batch,) step length tried
    halvings: PerSample  # (batch,) int32, of this direction
    damped: PerSample  # (batch,) int32, damped steps to take still, this one included
    patience: PerSample  # (batch,) int32, damped steps to take after the next failure
    products: jax.Array  # () int32, products with the Jacobian on the whole batch


def newton_krylov(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    krylov: int | None = None,
    inner_tol: Scalar = 0.5,
    backtracks: Scalar = 2,
    damping: Scalar = 1.0,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) by an inexact Newton method, for maps whose spectral radius may exceed 1.

    With g(z) = f(z) - z, J = df/dz and one GMRES cycle of Jacobian products for d,

        ||g(z) - (I - J(z)) d|| <= eta ||g(z)||,    z <- z + length d

    (Knoll & Keyes, J. Comput. Phys. 2004; Kelley, Iterative Methods for Linear and Nonlinear
    Equations, 1995, chapters 6 and 8). eta follows the decrease of ||g|| (Eisenstat & Walker, SIAM
    J. Sci. Comput. 1996, choice 2 and its safeguard; Kelley, section 6.3, against solving the last
    step too well). Each pass of the loop evaluates one trial point of every sample: one that does
    not decrease ||g|| enough, or where f is not finite, is rejected, and the sample halves its
    length from the point that it came from. After ``backtracks`` halvings, or where GMRES found no
    direction, it takes damped steps z + damping g(z) whether or not ||g|| falls: one after the
    first failure and twice as many after each further one, so that a local minimum of ||g|| is left
    and a map that contracts is solved in the end. Samples that backtrack, take damped steps or have
    stopped take no part in the linear solve.

    Memory: krylov + 7 times |z|, and what linearizing f keeps. Cost per step: one evaluation of f;
    where any sample needs a direction, as many products with J as the slowest of them and 4 krylov
    |z| multiply-adds for each. f must be differentiable in forward mode. Fails where the Krylov
    space is too small for the Jacobian (where radii above 1 spread over many dimensions), or local
    minima of ||g|| surround a root that repels.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most trial points, at least 1; may be traced.
        krylov: most Jacobian products of a direction, static. None is 20, or as many as a sample
            has numbers if those are at most 100: then each direction can be exact.
        inner_tol: largest eta, and the first; in (0, 1); may be traced.
        backtracks: most halvings of a step, at least 0; may be traced.
        damping: length of the steps along g(z) where Newton's fails; may be traced.
        **options: see [`deqjax.solvers.LoopOptions`][].

    Returns:
        [`deqjax.Solution`][] with the best finite iterate of each sample. ``stats.evaluations``
        are evaluations of f and products with J on the whole batch, added. A sample is DIVERGED
        only if f is not finite at its start.

    Raises:
        ValueError, TypeError: a malformed problem, or ``differentiable=True``: reverse mode cannot
            pass the inner loop.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.solvers import Status, newton_krylov
        >>> def f(z):  # its Jacobian is -3: plain steps would leave the fixed point
        ...     return 1 - 3 * z
        >>> solution = newton_krylov(f, jnp.zeros((2, 3)), tol=1e-5, max_steps=30)
        >>> print(solution.value[0].round(3), Status(int(solution.stats.status[0])).name)
        [0.25 0.25 0.25] CONVERGED
    """
    if krylov is not None:
        check_count("krylov", krylov)
    check_not_negative("inner_tol", inner_tol)
    check_count("backtracks", backtracks, least=0)
    check_not_negative("damping", damping)
    if options.get("differentiable"):
        raise ValueError(
            "newton_krylov cannot be unrolled (differentiable=True): use anderson or picard for "
            "that, or an adjoint that does not unroll the solver."
        )

    numbered_f = by_number(f, options.get("numbered", False))
    size = _affordable(z0) if krylov is None else int(krylov)

    def init(z: State) -> _Search:
        zeros, none = zeros_like(z), filled_per_sample(z, 0, jnp.int32)
        filled = partial(filled_per_sample, z, dtype=algebra.accumulation_dtype(z))
        return _Search(
            base=z,
            residual=zeros,
            direction=zeros,
            norm=filled(jnp.inf),
            forcing=filled(inner_tol),
            length=filled(0),
            halvings=none,
            damped=none,
            patience=none + 1,
            products=jnp.int32(0),
        )

    def step(memory: _Search, z: State, fz: State, seen: Pass) -> tuple[State, _Search]:
        residual = algebra.subtract(fz, z)
        goal = jnp.asarray(tol, seen.residual.dtype)
        accepted, memory = _judge(memory, z, residual, seen, goal, inner_tol)
        # no direction for a sample that has stopped, nor on the last pass, which takes no step
        wanted = accepted & (memory.damped == 0) & seen.goes_on
        _, jacobian = jax.linearize(lambda z: numbered_f(z, seen.number), z)
        found = solve_linear(
            lambda v: algebra.subtract(v, jacobian(v)),
            residual,
            tol=memory.forcing,
            limit=jnp.where(wanted, size, 0),
            size=size,
            axis_name=options.get("axis_name"),
        )
        memory = _aim(memory, accepted, wanted, found, backtracks, damping)
        proposal = algebra.add(memory.base, algebra.scale(memory.length, memory.direction))
        # a start where f is not finite leaves no point to go back to
        return _spoil(jnp.isinf(memory.norm), proposal), memory

    solution, search = iterate(
        f,
        z0,
        init=init,
        step=step,
        tol=tol,
        max_steps=max_steps,
        measure=measure_forgiving,
        **options,
    )
    stats = report_truly(solution.stats)
    evaluations = stats.evaluations + search.products
    return solution._replace(stats=stats._replace(evaluations=evaluations))


def _affordable(z0: State) -> int:
    """The whole space of a small sample, 20 dimensions of a large one."""
    # a malformed state is the loop's to name
    numbers = sum(math.prod(jnp.shape(leaf)[1:]) for leaf in jax.tree.leaves(z0))
    return max(numbers, 1) if numbers <= _SMALL else _OF_LARGE


def _judge(
    memory: _Search,
    z: State,
    residual: State,
    seen: Pass,
    goal: jax.Array,
    inner_tol: Scalar,
) -> tuple[PerSample, _Search]:
    """Whether each sample accepts its trial point, and the search with that as its base."""
    norm, damped = seen.change, memory.damped > 0
    decreased = norm <= (1 - _SUFFICIENT * memory.length) * memory.norm
    accepted = (norm < largest_number(norm)) & (decreased | damped)
    forcing = _forcing(memory, norm, seen.residual, goal, jnp.asarray(inner_tol, norm.dtype))
    return accepted, memory._replace(
        base=algebra.select(accepted, z, memory.base),
        residual=algebra.select(accepted, residual, memory.residual),
        norm=jnp.where(accepted, norm, memory.norm),
        forcing=jnp.where(accepted, forcing, memory.forcing),
        damped=memory.damped - (accepted & damped).astype(jnp.int32),
    )


def _aim(
    memory: _Search,
    accepted: PerSample,
    wanted: PerSample,
    found: LinearSolution,
    backtracks: Scalar,
    damping: Scalar,
) -> _Search:
    """The search with direction and length of the next trial point."""
    # a direction that could not decrease ||g|| enough at any length
    weak = (found.residual >= 1 - 2 * _SUFFICIENT) | ~jnp.isfinite(algebra.largest(found.value))
    used_up = memory.halvings >= jnp.asarray(backtracks, jnp.int32)
    failed = (wanted & weak) | (~accepted & used_up & (memory.damped == 0))
    left = jnp.where(failed, memory.patience, memory.damped)
    direction = algebra.select(accepted, found.value, memory.direction)
    fresh = accepted | failed
    whole = jnp.where(left > 0, jnp.asarray(damping, memory.length.dtype), 1)
    return memory._replace(
        direction=algebra.select(left > 0, memory.residual, direction),
        length=jnp.where(fresh, whole, memory.length / 2),
        halvings=jnp.where(fresh, 0, memory.halvings + 1),
        damped=left,
        patience=jnp.where(failed, 2 * memory.patience, memory.patience),
        products=memory.products + found.products,
    )


def _forcing(
    memory: _Search, norm: PerSample, measured: PerSample, goal: jax.Array, largest: jax.Array
) -> PerSample:
    """Tolerance eta of the linear solve: as tight as Newton's convergence can use, no tighter."""
    info = jnp.finfo(norm.dtype)
    decrease = norm / jnp.maximum(memory.norm, info.tiny)
    safeguard = 0.9 * memory.forcing**2
    forcing = 0.9 * decrease**2
    forcing = jnp.where(safeguard > 0.1, jnp.maximum(forcing, safeguard), forcing)
    last = 0.5 * goal / jnp.maximum(measured, info.tiny)
    limited = jnp.minimum(jnp.maximum(forcing, last), largest)
    return jnp.where(jnp.isinf(memory.norm), largest, limited)


def _spoil(mask: PerSample, z: State) -> State:
    return jax.tree.map(lambda x: jnp.where(algebra.per_sample(mask, x), jnp.nan, x), z)
