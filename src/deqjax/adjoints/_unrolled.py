"""Unrolled differentiation: backpropagation through the solver's own steps."""

import functools
from collections.abc import Callable

from deqjax._core.hoist import PureMap
from deqjax._core.types import Operands, Scalar, State
from deqjax._core.validate import check_checkpoint
from deqjax.adjoints._forward import solve_forward
from deqjax.adjoints._pattern import Adjoint
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution


def unrolled(checkpoint_every: int | None = None) -> Adjoint:
    """Gradients of what the solver computed, by reverse mode through its loop.

    The exact derivative of the finite iteration, also with respect to z0, at memory and time
    proportional to ``max_steps``, which must be a Python int. All ``max_steps`` passes run; samples
    that have converged keep their value. There is no backward solve, so a probe stays zero
    (``Status.NOT_RUN``). The solver must accept ``differentiable=True`` (and ``checkpoint_every``,
    if that is given). With Anderson in bfloat16 the gradient is dominated by the derivative of
    rounding noise: use Picard or float32 there.

    Args:
        checkpoint_every: keep the solver's state of every so many steps only and run those between
            again in the backward pass (Griewank & Walther, Evaluating Derivatives, chapter 12);
            about the square root of ``max_steps`` needs least memory. None keeps everything.

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.

    Raises:
        ValueError: a spacing that is no Python int >= 1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def loss(a):  # z = a z + 1, so z* = 1 / (1 - a), with the derivative 4 at a = 0.5
        ...     return deqjax.fixed_point(
        ...         lambda z, a: a * z + 1,
        ...         jnp.zeros((1, 1)),
        ...         a,
        ...         adjoint=deqjax.adjoints.unrolled(),
        ...         max_steps=4,
        ...         tol=1e-6,
        ...     ).value.sum()
        >>> print(f"{jax.grad(loss)(0.5):.2f}")
        4.00
    """
    check_checkpoint(checkpoint_every, differentiable=True)
    chosen = {} if checkpoint_every is None else {"checkpoint_every": checkpoint_every}
    return functools.partial(_unrolled, options={"differentiable": True, **chosen})


def _unrolled(
    f: PureMap,
    z0: State,
    operands: Operands,
    *,
    solver: Callable[..., Solution],
    tol: Scalar,
    max_steps: Scalar,
    probe: BackwardStats | None,
    options: dict[str, int],
) -> Solution:
    del probe  # no backward solve to report
    return solve_forward(f, z0, operands, solver=solver, tol=tol, max_steps=max_steps, **options)
