"""A solve in two precisions: narrow products as far as they go, full ones from there."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deqjax._core import algebra
from deqjax._core.hoist import hoist
from deqjax._core.narrow import Dtype, narrowed
from deqjax._core.solution import Solution
from deqjax._core.types import Map, PerSample, Scalar, State
from deqjax._core.validate import check_options, check_patience, check_problem
from deqjax.solvers._anderson import anderson
from deqjax.solvers._gmres import gmres
from deqjax.solvers._jaxopt import jaxopt
from deqjax.solvers._loop import LoopOptions
from deqjax.solvers._reversible import reversible

_PATIENCE = 3
_OPTIONS_OF_A_PROBLEM = ("stop", "norm", "min_steps", "trace")
_REFUSED = {
    "numbered": "a step of one phase has no number in the other",
    "trajectory": "its rows would be of steps that each sample takes in another phase",
    "differentiable": "only the second phase is f itself",
    "keep_memory": "the second phase starts without a history, and learns little in its few steps",
}


def mixed_precision(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    solver: Callable[..., Solution] = anderson,
    low: Any = None,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) with bfloat16 products as far as these go, then with those of f itself.

    Any f in float32 will do, NNX and Linen cells and backward systems too: its trace is rewritten.
    In the first phase matrix products and convolutions, at any depth of f, take operands rounded to
    ``low`` and round what they give, and no more. All else, and with it z, sums, norms and the
    solver's own algebra, is as it was. Weights are rounded once, before the loop.

    Rounding the operands of products by a relative u (at most 2^-8 for bfloat16) changes f(z) by
    about u (3e-3 to 4e-3 in published models), and no smaller residual tells anything of f. So a
    sample leaves the first phase when its residual r there is at most u, or sqrt(tol^2 - u^2), for
    which r and u add up to tol in squares, or when ``patience`` updates have not lowered
    ||f(z) - z||. The second phase starts at the best state of the first, without its history, and
    solves to tol: value, residual and status are those of f.

    What is saved is the time of products and the bytes of weights on devices with units for
    narrow products; on a CPU nothing. An f without products wider than ``low`` is solved as it
    stands: a model that computes in bfloat16 itself (``dtype="bfloat16"``) cannot be mixed. On TPUs
    (and, to three digits, on recent GPUs) JAX rounds the products of float32 by default: solve
    under ``jax.default_matmul_precision("float32")`` for the second phase to be in float32.

    Memory: the solver's own, and the rounded weights. Cost: the steps of both phases are about
    those of one solve, and a few more where the solver has a history to learn again.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual, of f itself, is at most this; may be traced.
        max_steps: most updates of z in both phases together, at least 1; may be traced.
        solver: of both phases: anderson, broyden, picard, newton_krylov, or, for an affine f,
            gmres, without ``trace`` and ``min_steps``, which are of its cycles; set its own options
            with `functools.partial`.
        low: the narrow type, as in ``"float16"``; None is bfloat16, and float32 where z has
            float64.
        **options: see [`deqjax.solvers.LoopOptions`][]; ``patience`` is of the first phase alone,
            and 3 if not given. Not ``numbered``, ``trajectory`` and ``differentiable``; nor
            ``keep_memory``, so that SHINE is refused.

    Returns:
        [`deqjax.Solution`][]. ``stats.steps``, ``stats.evaluations`` and the rows of a trace are
        those of both phases; the trace has the residual of f itself from the first state that f
        itself saw. ``stats.low_evaluations`` are the evaluations of the first phase, on the whole
        batch.

    Raises:
        ValueError, TypeError: a malformed problem, a ``low`` that is no narrower than z, or a
            solver or an option that does not go with two phases, before anything is compiled.

    Examples:
        >>> import functools
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> weights = 0.1 * jax.random.normal(jax.random.key(0), (16, 16))
        >>> mixed = functools.partial(
        ...     deqjax.solvers.mixed_precision,
        ...     solver=functools.partial(deqjax.solvers.anderson, history=8),
        ... )
        >>> solution = deqjax.fixed_point(
        ...     lambda z: jnp.tanh(z @ weights + 1), jnp.zeros((4, 16)), solver=mixed, tol=1e-6
        ... )
        >>> print(bool(solution.stats.residual.max() < 1e-6))
        True
        >>> print(0 < solution.stats.low_evaluations < solution.stats.evaluations)
        True
    """
    solver, given = _without_loop_options(solver, options)
    _check_solver(solver, given)
    for name, reason in _REFUSED.items():
        if given.get(name):
            # a TypeError that names the option, which adjoints explain in their own words
            raise TypeError(f"mixed_precision does not take the option '{name}': {reason}.")
    known_options = {**LoopOptions.__annotations__, "keep_memory": bool}
    check_options(
        (name for name in given if name not in known_options), LoopOptions.__annotations__
    )
    known = {name: given[name] for name in _OPTIONS_OF_A_PROBLEM if name in given}
    z0 = check_problem(f, z0, tol=tol, max_steps=max_steps, **known)
    narrow = _check_low(low, z0)
    _, traced, operands = hoist(f, z0, ())
    low_f = narrowed(traced, operands, z0, narrow)
    patience = given.pop("patience", _PATIENCE)
    check_patience(patience)
    if low_f is None:
        solution = solver(f, z0, tol=tol, max_steps=max_steps, **given)
        return _with_low(solution, jnp.int32(0))

    limit = jnp.asarray(max_steps, jnp.int32)
    shared = {name: given[name] for name in ("norm", "trace", "axis_name") if name in given}
    coarse = _coarse(tol, given.get("stop", "relative"), narrow, z0)
    first = lax.stop_gradient(
        solver(low_f, z0, tol=coarse, max_steps=limit, patience=patience, **shared)
    )
    taken = first.stats.steps
    if "min_steps" in given:
        given["min_steps"] = jnp.maximum(jnp.asarray(given["min_steps"]) - taken, 0)
    second = solver(f, first.value, tol=tol, max_steps=limit - taken, **given)
    stats = second.stats._replace(
        steps=taken + second.stats.steps,
        evaluations=first.stats.evaluations + second.stats.evaluations,
        trace=_joined(first.stats.trace, second.stats.trace, taken),
    )
    return _with_low(second._replace(stats=stats), first.stats.evaluations)


def _coarse(tol: Scalar, stop: str, low: Dtype, z0: State) -> jax.Array:
    """The relative residual at which a sample leaves the first phase; () or (batch,)."""
    dtype = algebra.accumulation_dtype(z0)
    # at most half the distance between two numbers, relative to them
    rounding = jnp.asarray(float(jnp.finfo(low).eps) / 2, dtype)
    if stop == "absolute":  # tol says nothing of how close that is to z
        return rounding
    tol = jnp.asarray(tol, dtype)
    return jnp.sqrt(jnp.maximum(tol**2 - rounding**2, rounding**2))


def _joined(first: jax.Array | None, second: jax.Array | None, taken: PerSample) -> Any:
    """(rows, batch) the trace of the first phase's steps, then that of the second phase."""
    if first is None or second is None:
        return None
    rows = jnp.arange(len(first), dtype=jnp.int32)[:, None] - taken[None]
    after = jnp.take_along_axis(second, jnp.maximum(rows, 0), axis=0)
    return lax.stop_gradient(jnp.where(rows < 0, first, after))


def _with_low(solution: Solution, evaluations: jax.Array) -> Solution:
    return solution._replace(stats=solution.stats._replace(low_evaluations=evaluations))


def _without_loop_options(
    solver: Callable[..., Solution], options: LoopOptions
) -> tuple[Callable[..., Solution], dict[str, Any]]:
    """The solver without what a partial sets of both phases, and that among the options."""
    if not isinstance(solver, functools.partial):
        return solver, {**options}
    of_loop = {*LoopOptions.__annotations__, "keep_memory"}.intersection(solver.keywords)
    own = {name: value for name, value in solver.keywords.items() if name not in of_loop}
    given = {name: solver.keywords[name] for name in of_loop} | {**options}
    return functools.partial(solver.func, *solver.args, **own), given


def _check_solver(solver: Any, options: Mapping[str, Any]) -> None:
    inner = solver
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inner is reversible:
        raise ValueError(
            "mixed_precision cannot take solver=reversible, whose steps are undone by f itself: "
            "use anderson, broyden, picard or newton_krylov."
        )
    if inner is jaxopt:
        raise ValueError(
            "mixed_precision cannot take solver=jaxopt, which has no patience: use anderson, "
            "broyden, picard or newton_krylov."
        )
    for name in ("trace", "min_steps"):
        if inner is gmres and name in options:
            raise ValueError(
                f"mixed_precision cannot take {name} with solver=gmres, which counts cycles there "
                "and products in its steps: leave it out, or use anderson."
            )


def _check_low(low: Any, z0: State) -> Dtype:
    """The narrow type, a real floating-point one below what z is solved in."""
    full = algebra.accumulation_dtype(z0)
    if low is None:
        low = jnp.float32 if full == np.float64 else jnp.bfloat16
    try:
        dtype: Dtype = jnp.dtype(low)
    except TypeError as error:
        raise TypeError(f"low must be a dtype, such as 'bfloat16', got {low!r}.") from error
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize >= full.itemsize:
        raise ValueError(
            f"low must be a floating-point dtype narrower than {full}, in which z is solved, got "
            f"{dtype}."
        )
    if dtype.itemsize < 2:
        raise ValueError(f"low must be bfloat16, float16 or float32, got {dtype}.")
    return dtype
