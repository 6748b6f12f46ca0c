"""The coupled iteration of reversible DEQs: every step can be undone."""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deqjax._core import algebra
from deqjax._core.coupled import CoupledState, in_full_width, in_width, like
from deqjax._core.residual import Measured, Norm, Stop, measure
from deqjax._core.sharding import filled_per_sample
from deqjax._core.solution import Solution
from deqjax._core.types import Map, PerSample, Scalar, State
from deqjax._core.validate import check_not_negative, check_problem, check_returns
from deqjax.solvers._loop import LoopOptions, Pass, iterate


class _Pair(NamedTuple):
    """The loop's state."""

    z: State
    y: State
    age: PerSample  # (batch,) float32, updates taken: so the best iterate knows its step


def reversible(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    damping: Scalar = 0.5,
    keep_memory: bool = False,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) by two coupled sequences, whose steps can be undone.

    With beta = damping and y_0 = z_0,

        y_(n+1) = (1 - beta) y_n + beta f(z_n)
        z_(n+1) = (1 - beta) z_n + beta f(y_(n+1))

    (McCallum et al. 2025, "Reversible Deep Equilibrium Models", arXiv 2509.12917). Made for
    [`deqjax.adjoints.reversible`][], which rebuilds the iterates backward instead of storing
    them.

    The error along an eigenvector of the Jacobian with eigenvalue a shrinks by the larger root r of
    r^2 - (2 (1 - beta) + beta^2 a^2) r + (1 - beta)^2 = 0 a step: by less than 1 for |a| < 1,
    whatever its sign. Fails where a real eigenvalue has magnitude 1 or more. It rests at y = f(z),
    z = f(y): where that is no fixed point but a cycle of two, the residual tells.

    Memory: 4 times |z|. Cost per step: two evaluations of f. A bfloat16 or float16 state is kept in
    float32 between evaluations, so that damped steps do not vanish in its rounding.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start of both sequences, leaves (batch, ...), real floating point.
        tol: a sample stops when the residual of its z is at most this; may be traced.
        max_steps: most updates of the pair, at least 1; may be traced.
        damping: relaxation beta, strictly between 0 and 1: the undamped step cannot be undone. A
            larger one converges in fewer steps, each of which loses more digits when undone; may be
            traced.
        keep_memory: whether ``Solution.memory`` holds the `CoupledState` that the backward
            rule starts from.
        **options: see [`deqjax.solvers.LoopOptions`][].

    Returns:
        [`deqjax.Solution`][] with the best finite iterate z of each sample. A step counts two in
        ``stats.evaluations``, and so does the last pass, which only measures.

    Raises:
        ValueError, TypeError: a malformed problem, or ``numbered=True``, before anything is
            compiled.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.solvers import reversible
        >>> solution = reversible(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=1e-4, max_steps=30)
        >>> print(solution.value[0].round(2))
        [2. 2. 2.]
        >>> print(int(solution.stats.evaluations) == 2 * (int(solution.stats.steps[0]) + 1))
        True
    """
    _check_damping(damping)
    if options.get("numbered"):
        raise ValueError(
            "reversible cannot number its evaluations (numbered=True): a step takes two of them, "
            "which the backward pass repeats without their number; use picard or anderson."
        )
    check_returns(options.get("returns", "best"), rejects=False, pairs=True)
    z0 = check_problem(
        f,
        z0,
        tol=tol,
        max_steps=max_steps,
        stop=options.get("stop", "relative"),
        norm=options.get("norm", "state"),
        min_steps=options.get("min_steps", 0),
        trace=options.get("trace", 0),
    )
    wide_f = in_full_width(f, z0)
    # rows of a trajectory can lie after the best iterate: then the last one is where to start
    keep_last = keep_memory and bool(options.get("trajectory"))

    def evaluate(pair: _Pair) -> _Pair:
        return pair._replace(z=wide_f(pair.z))

    def measure_z(pair: _Pair, image: _Pair, stop: Stop, norm: Norm) -> Measured:
        # of z as it is returned
        return measure(like(pair.z, z0), like(image.z, z0), stop, norm)

    def step(
        last: _Pair | None, pair: _Pair, image: _Pair, seen: Pass
    ) -> tuple[_Pair, _Pair | None]:
        if last is not None:
            # a sample that has stopped is back at its best iterate, which may be older
            newer = jnp.isfinite(seen.residual) & (pair.age > last.age)
            last = algebra.select(newer, pair, last)
        y = algebra.mix(pair.y, image.z, damping)
        z = algebra.mix(pair.z, wide_f(y), damping)
        return _Pair(z, y, pair.age + 1), last

    start = in_width(z0)
    solution, last = iterate(
        evaluate,
        _Pair(start, start, filled_per_sample(z0, 0, jnp.float32)),
        init=lambda pair: pair if keep_last else None,
        step=step,
        tol=tol,
        max_steps=max_steps,
        measure=measure_z,
        **options,
    )
    best, rows = solution.value, solution.trajectory
    memory = None
    if keep_memory:
        end = best if last is None else last
        ages = best.age[None] if rows is None else jnp.concatenate([best.age[None], rows.age])
        count, shown = end.age.astype(jnp.int32), ages.astype(jnp.int32)
        longest, axis_name = jnp.max(count), options.get("axis_name")
        if axis_name is not None:
            longest = lax.pmax(longest, axis_name)
        beta = jnp.asarray(damping, algebra.accumulation_dtype(z0))
        memory = CoupledState(end.z, end.y, count, shown, longest, beta)
    return Solution(
        like(best.z, z0),
        solution.stats._replace(evaluations=2 * solution.stats.evaluations),
        None if rows is None else like(rows.z, z0),
        memory,
    )


def _check_damping(damping: Scalar) -> None:
    single = not isinstance(damping, jax.Array) and np.ndim(damping) == 0
    if single and not 0 < damping < 1:
        raise ValueError(
            f"damping must lie strictly between 0 and 1, got {damping}: a reversible step of "
            "length 1 forgets where it came from; use picard for undamped steps."
        )
    check_not_negative("damping", damping)
