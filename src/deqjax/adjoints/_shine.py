"""SHINE: the inverse that the forward solve learned serves the backward pass."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from deqjax._core import algebra
from deqjax._core.low_rank import LowRankInverse
from deqjax._core.tolerance import Controls
from deqjax._core.types import PerSample, Scalar, State
from deqjax._core.validate import check_count, check_not_negative
from deqjax.adjoints._adjoint_state import ByAdjointState, Transpose, no_steps
from deqjax.adjoints._implicit import solve_adjoint_state
from deqjax.adjoints._pattern import Adjoint, Kept, WithBackward
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution, anderson


def shine(
    refine: Scalar = 0,
    solver: Callable[..., Solution] = anderson,
    tol: Scalar | None = None,
) -> Adjoint:
    """Gradients by the inverse Jacobian that Broyden's method learned on its way to z*.

    With the cotangent v of z*, J = df/dz at z* and Broyden's final estimate H of (I - J)^-1,

        w_0 = H^T v,    then    gradient of the operands = (df/da)^T w

    with w = w_0, or w after at most ``refine`` steps of a solver for w = J^T w + v that starts at
    w_0 (Ramzi et al., ICLR 2022: SHINE and its refinement). Without refinement the backward pass is
    one vjp and 2 rank |z| multiply-adds; H, 2 rank times |z|, is kept for it. With enough
    refinement the gradient is that of [`implicit`][deqjax.adjoints.implicit].

    H knows J along the forward solve's last steps alone. Where those see the slow modes of f, w_0
    is far closer to the implicit direction than v is; after few steps it is no better than v, and
    above radius 1 it may be worse. The probe's residual measures it.

    The forward solver must be ``deqjax.solvers.broyden`` (with any options). Where w_0 is not
    finite, w_0 = v takes its place. The paper's fallback to v where ||w_0|| is large is left out:
    near radius 1 the exact w is large too. The estimate of the end serves a trajectory's states as
    well. Second derivatives treat H as a constant, so that they need refinement to be right.

    A probe shows the refinement's steps, residual and status; without refinement no steps,
    ``Status.NOT_RUN`` (``DIVERGED`` if not finite) and the residual of w_0 in w = J^T w + v.

    Args:
        refine: most steps of refinement, 0 or more; may be traced.
        solver: for the refinement, any solver of this library or of the same signature.
        tol: relative residual at which a sample's refinement stops; may be traced. None is by the
            dtype of z, as for [`implicit`][deqjax.adjoints.implicit].

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.

    Raises:
        ValueError, TypeError: a negative tolerance or step limit, or, when used, a forward solver
            that does not keep its inverse.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def loss(a):  # z = a z + 1, so z* = 1 / (1 - a), with the derivative 4 at a = 0.5
        ...     return deqjax.fixed_point(
        ...         lambda z, a: a * z + 1,
        ...         jnp.zeros((1, 1)),
        ...         a,
        ...         solver=deqjax.solvers.broyden,
        ...         adjoint=deqjax.adjoints.shine(),
        ...         tol=1e-6,
        ...     ).value.sum()
        >>> print(f"{jax.grad(loss)(0.5):.2f}")
        4.00
    """
    check_count("refine", refine, least=0)
    if tol is not None:
        check_not_negative("the backward tol", tol)

    never = not isinstance(refine, jax.Array) and refine == 0
    steps = refine if isinstance(refine, jax.Array) else int(refine)  # 3.0 is a count too
    rule, controls = (_estimate, ()) if never else (_Refined(solver), Controls(tol, steps))
    return WithBackward(ByAdjointState(rule), controls, memory=LowRankInverse, needs="broyden")


@dataclasses.dataclass(frozen=True)
class _Refined:
    """The estimate, and steps of a solver from there."""

    solver: Callable[..., Solution]

    def __call__(
        self, transpose: Transpose, cotangent: State, kept: Kept
    ) -> tuple[State, BackwardStats]:
        settled = kept.controls.settled(cotangent)
        start, _ = _estimate(transpose, cotangent, kept)
        return solve_adjoint_state(
            transpose,
            cotangent,
            start,
            solver=self.solver,
            tol=settled.tol,
            max_steps=settled.max_steps,
        )


def _estimate(transpose: Transpose, cotangent: State, kept: Kept) -> tuple[State, PerSample]:
    """H^T v, or v where that is not finite."""
    del transpose
    w = kept.solution.memory.transposed.apply(cotangent)
    finite = jnp.isfinite(algebra.largest(w))
    return algebra.select(finite, w, cotangent), no_steps(cotangent)
