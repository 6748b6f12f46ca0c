"""The entry point: a solver for the value, an adjoint for the gradient."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from deqjax import _eager
from deqjax._core.determinism import check_deterministic
from deqjax._core.form import take_form
from deqjax._core.hoist import hoist, last_step
from deqjax._core.independence import check_independent
from deqjax._core.manual_axes import vary, vary_discrete, varying_axes
from deqjax._core.segments import Segments
from deqjax._core.types import Map, Scalar, State
from deqjax._core.validate import check_limits
from deqjax._slips import check_adjoint, check_solver
from deqjax.adjoints import Adjoint, BackwardStats, implicit
from deqjax.adjoints._probe import check_probe
from deqjax.solvers import Solution, anderson


def fixed_point(
    f: Map,
    z0: State,
    *args: Any,
    solver: Callable[..., Solution] = anderson,
    adjoint: Adjoint | None = None,
    tol: Scalar = 1e-3,
    max_steps: Scalar = 30,
    probe: BackwardStats | None = None,
    coupled: bool = False,
    segments: Segments | Any = None,
    has_aux: bool = False,
    numbered: bool = False,
    debug: bool = False,
) -> Solution:
    """Solve z* = f(z*, *args) for a batch and differentiate it in ``args`` and in f's closures.

    Composes with jit, grad (of any order, reverse mode), vmap, pmap, shard_map and remat. ``tol``
    and ``max_steps`` are run-time values: under jit, changing them compiles nothing.

    Outside of jit too, a map that was solved before compiles nothing: f is traced, and what the
    trace shows finds the program compiled then, whatever the values of arrays, captured ones too.
    The last 128 programs are kept ([`deqjax.clear_programs`][] forgets them); they hold no arrays.

    Norms are formed in float32 (float64 for float64 z) and hold from 1e-30 to 1e30. A sample whose
    *inputs* are NaN leaves values and statistics of the others untouched, but makes the gradient of
    parameters that they share NaN.

    Args:
        f: ``f(z, *args) -> z'`` with the structure, shapes and dtypes of z. Deterministic:
            draw random numbers before the solve.
        z0: start; a pytree of real or complex floating-point arrays whose axis 0 is the batch.
            Complex numbers are solved as pairs of real ones; f need not be holomorphic, and
            gradients follow JAX's convention.
        *args: pytrees of arrays; floating-point leaves get gradients, integers and keys pass
            through.
        solver: ``solver(f, z0, *, tol, max_steps) -> Solution``; set its own options with
            `functools.partial`, as in ``partial(deqjax.solvers.anderson, history=8)``.
        adjoint: rule for the gradient, ``deqjax.adjoints.implicit()`` if None.
        tol: a sample stops when its residual ||f(z) - z|| / ||f(z)|| is at most this; () or
            (batch,), each sample's own.
        max_steps: most updates of z, at least 1; () or (batch,).
        probe: [`deqjax.backward_probe`][]; its gradient reports the backward solve.
        coupled: the whole state is one sample: leaves of any shape, scalars too. Statistics and
            probe have shape (1,).
        segments: (rows,) integers, row -> graph: axis 0 of every leaf holds the nodes of many
            graphs, and each graph is a sample. Norms, small systems, ``tol``, ``max_steps``,
            statistics and probe are per graph, (graphs,). Under jit a [`deqjax.Segments`][].
        has_aux: f returns ``(z', aux)``, and the solution shows the aux of its value, a pytree of
            arrays of any shape, differentiable, by one more evaluation of f.
        numbered: call ``f(z, *args, step=n)`` with the number n of updates that led to z, () int32
            from 0: for noise by step (``jax.random.fold_in(key, step)`` of a key in args or
            closed over, so that the same call takes the same path) and for schedules. A solver
            proposes from all evaluations alike, whatever their step. Rules that differentiate at
            z* do so at the number of the last evaluation, ``stats.steps.max()``; ``unrolled`` and
            ``truncated`` each step at its own.
        debug: evaluate f twice at z0 and at f(z0) first and raise if results differ in any bit;
            then perturb some rows, and raise if others change. Costs eight evaluations and, under
            jit, host callbacks.

    Returns:
        [`deqjax.Solution`][]: ``value`` like z0 and ``stats`` per sample. A sample that did not
        converge returns its best finite iterate, the one that f changed least, and its status
        says so.

    Raises:
        ValueError, TypeError: a malformed problem, in one sentence, before anything is compiled.
        deqjax.NotDeterministicError: with ``debug``, an f that changes between evaluations.
        deqjax.CoupledRowsError: with ``debug``, an f whose rows (graphs) depend on each other.

    Examples:
        >>> import functools
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def f(z, weights, x):
        ...     return jnp.tanh(z @ weights + x)
        >>> weights, x = 0.5 * jnp.eye(3), jnp.ones((2, 3))
        >>> def loss(weights):
        ...     solver = functools.partial(deqjax.solvers.anderson, history=3)
        ...     solution = deqjax.fixed_point(f, jnp.zeros((2, 3)), weights, x, solver=solver)
        ...     return solution.value.sum(), solution
        >>> gradient, solution = jax.grad(loss, has_aux=True)(weights)
        >>> print(gradient.shape, deqjax.Status(int(solution.stats.status[0])).name)
        (3, 3) CONVERGED
    """
    check_solver(solver)
    check_adjoint(adjoint)
    z0, form = take_form(z0, coupled=coupled, segments=segments, has_aux=has_aux)
    core = form.core(f)
    check_limits(tol, max_steps, z0)
    if numbered:
        # loops count for each device; a key must vary as the step does that is folded into it
        axes = varying_axes((z0, args))
        args = vary_discrete(args, axes)
    z0, pure, operands = hoist(core, z0, args, numbered)
    probe = check_probe(probe, z0)
    if debug:
        # a keyword: it cannot be taken for an operand, wherever those end
        at_start = functools.partial(core, step=vary(jnp.int32(0), axes)) if numbered else core
        check_deterministic(at_start, z0, args)
        check_independent(at_start, z0, args, form.layout.sample)
    rule = implicit() if adjoint is None else adjoint
    solution = _eager.solve(
        rule, pure, z0, operands, solver=solver, tol=tol, max_steps=max_steps, probe=probe
    )
    shown = functools.partial(f, step=last_step(solution)) if numbered else f
    return form.finish(solution, shown, args)
