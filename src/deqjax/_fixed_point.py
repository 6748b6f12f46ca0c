"""The entry point: a solver for the value, an adjoint for the gradient."""

from collections.abc import Callable
from typing import Any

from deqjax._determinism import check_deterministic
from deqjax._hoist import hoist
from deqjax._slips import check_adjoint, check_solver
from deqjax._types import Map, Scalar, State
from deqjax.adjoints import Adjoint, BackwardStats, implicit
from deqjax.adjoints._probe import check_probe
from deqjax.solvers import Solution, anderson
from deqjax.solvers._validate import check_limits, check_state


def fixed_point(
    f: Map,
    z0: State,
    *args: Any,
    solver: Callable[..., Solution] = anderson,
    adjoint: Adjoint | None = None,
    tol: Scalar = 1e-3,
    max_steps: Scalar = 30,
    probe: BackwardStats | None = None,
    debug: bool = False,
) -> Solution:
    """Solve z* = f(z*, *args) for a batch and differentiate it in ``args`` and in f's closures.

    Composes with jit, grad (of any order, reverse mode), vmap, pmap, shard_map and remat. ``tol``
    and ``max_steps`` are run-time values: under jit, changing them compiles nothing.

    Norms are formed in float32 (float64 for float64 z) and hold from 1e-30 to 1e30. A sample whose
    *inputs* are NaN leaves values and statistics of the others untouched, but makes the gradient of
    parameters that they share NaN.

    Args:
        f: ``f(z, *args) -> z'`` with the structure, shapes and dtypes of z. Deterministic:
            draw random numbers before the solve.
        z0: start; a pytree of real floating-point arrays whose axis 0 is the batch.
        *args: pytrees of arrays; floating-point leaves get gradients, integers and keys pass
            through.
        solver: ``solver(f, z0, *, tol, max_steps) -> Solution``; set its own options with
            `functools.partial`, as in ``partial(deqjax.solvers.anderson, history=8)``.
        adjoint: rule for the gradient, ``deqjax.adjoints.implicit()`` if None.
        tol: a sample stops when its residual ||f(z) - z|| / ||f(z)|| is at most this; () or
            (batch,), each sample's own.
        max_steps: most updates of z, at least 1; () or (batch,).
        probe: [`deqjax.backward_probe`][]; its gradient reports the backward solve.
        debug: evaluate f twice at z0 and at f(z0) first and raise if results differ in any bit.
            Costs four evaluations and, under jit, a host callback.

    Returns:
        [`deqjax.Solution`][]: ``value`` like z0 and ``stats`` per sample. A sample that did not
        converge returns its best finite iterate, the one that f changed least, and its status
        says so.

    Raises:
        ValueError, TypeError: a malformed problem, in one sentence, before anything is compiled.
        deqjax.NotDeterministicError: with ``debug``, an f that changes between evaluations.

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
    z0 = check_state(z0)
    check_limits(tol, max_steps, z0)
    z0, pure, operands = hoist(f, z0, args)
    probe = check_probe(probe, z0)
    if debug:
        check_deterministic(f, z0, args)
    rule = implicit() if adjoint is None else adjoint
    return rule(pure, z0, operands, solver=solver, tol=tol, max_steps=max_steps, probe=probe)
