"""Unrolled differentiation: backpropagation through the solver's own steps."""

from collections.abc import Callable

from deqjax._hoist import PureMap
from deqjax._types import Operands, Scalar, State
from deqjax.adjoints._pattern import Adjoint
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution


def unrolled() -> Adjoint:
    """Gradients of what the solver computed, by reverse mode through its loop.

    The exact derivative of the finite iteration, also with respect to z0, at memory and time
    proportional to ``max_steps``, which must be a Python int. All ``max_steps`` passes run; samples
    that have converged keep their value. There is no backward solve, so a probe stays zero
    (``Status.NOT_RUN``). The solver must accept ``differentiable=True``. With Anderson in bfloat16
    the gradient is dominated by the derivative of rounding noise: use Picard or float32 there.

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.
    """
    return _unrolled


def _unrolled(
    f: PureMap,
    z0: State,
    operands: Operands,
    *,
    solver: Callable[..., Solution],
    tol: Scalar,
    max_steps: Scalar,
    probe: BackwardStats | None,
) -> Solution:
    del probe  # no backward solve to report
    return solver(lambda z: f(z, operands), z0, tol=tol, max_steps=max_steps, differentiable=True)
