"""Implicit differentiation: the adjoint state is itself a fixed point."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.hoist import hoist
from deqjax._core.tolerance import Controls
from deqjax._core.types import PerSample, Scalar, State
from deqjax._core.validate import check_count, check_not_negative
from deqjax.adjoints._adjoint_state import ByAdjointState, Transpose
from deqjax.adjoints._both_modes import BothModes
from deqjax.adjoints._pattern import Adjoint, Kept, WithBackward
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution, Stats, Status, anderson


def implicit(
    solver: Callable[..., Solution] = anderson,
    tol: Scalar | None = None,
    max_steps: Scalar = 30,
    *,
    acceptable: Scalar | None = None,
    fallback: Literal["jacobian_free"] | None = None,
    on_failure: Literal["bound", "keep", "nan"] = "bound",
    forward_mode: bool = False,
) -> Adjoint:
    """Gradients by the implicit function theorem, at memory independent of the number of steps.

    With the cotangent v of z* and J = df/dz at z*, solves

        w = J^T w + v,    then    gradient of the operands = (df/da)^T w

    (Bai, Kolter & Koltun, NeurIPS 2019, theorem 1). f is linearized once. The solve starts at v, so
    that zero steps give the Jacobian-free gradient of Fung et al. (AAAI 2022), and v is scaled to
    about 1 first. Since the solve is a fixed point with this same adjoint, the gradient can be
    differentiated again.

    A sample's backward solve has failed if it ended above the ``acceptable`` residual. By default
    its w is then shortened, if need be, until what is unexplained of it is no more than the
    cotangent that it started from: a w of relative residual r to the length ||v|| / r. A w that is
    nearly right stays as it is, and one that ran away cannot carry the step with it. The probe
    tells in every case how the solve went.

    Args:
        solver: for the backward system, affine in w: any solver of this library (``gmres`` is made
            for it) or of the same signature.
        tol: relative residual at which a sample's backward solve stops; may be traced. None is by
            the coarsest dtype of z: 1e-5 for float32 and float64, 9.8e-4 for float16 and 7.8e-3 for
            bfloat16, which can show no less. What f computes in inside is not seen: where a z of
            float32 goes through bfloat16, give 8e-3.
        max_steps: most backward steps, 0 or more; may be traced.
        acceptable: residual above which a sample's backward solve has failed, ``tol`` if None; may
            be traced.
        fallback: "jacobian_free" gives a failed sample w = v.
        on_failure: "bound" shortens w of a failed sample as above, "keep" leaves it as it is, "nan"
            makes it NaN, and with it the gradient of parameters that it shares, so that no step can
            be taken with it unnoticed.

        forward_mode: let `jax.jvp`, `jax.jacfwd`, `jax.hessian` and Jacobian-vector products of a
            gradient pass too, and solvers that linearize f, such as `newton_krylov` around an f
            with a fixed point of its own inside. The tangent of z* solves dz = J dz + (df/da) da by
            the same solver, and transposes to the system above. It fills no probe.

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.

    Raises:
        ValueError, TypeError: a negative tolerance or step limit, an unknown policy, or both.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def loss(a):  # z = a z + 1, so z* = 1 / (1 - a), with the derivative 4 at a = 0.5
        ...     return deqjax.fixed_point(
        ...         lambda z, a: a * z + 1,
        ...         jnp.zeros((1, 1)),
        ...         a,
        ...         adjoint=deqjax.adjoints.implicit(),
        ...         tol=1e-6,
        ...     ).value.sum()
        >>> print(f"{jax.grad(loss)(0.5):.2f}")
        4.00
    """
    if tol is not None:
        check_not_negative("the backward tol", tol, single=False)
    check_count("the backward max_steps", max_steps, least=0, single=False)
    if acceptable is not None:
        check_not_negative("acceptable", acceptable, single=False)
    if fallback not in (None, "jacobian_free"):
        raise ValueError(f"fallback must be 'jacobian_free' or None, got {fallback!r}.")
    if on_failure not in ("bound", "keep", "nan"):
        raise ValueError(f"on_failure must be 'bound', 'keep' or 'nan', got {on_failure!r}.")
    if fallback and on_failure == "nan":
        raise ValueError(
            "fallback='jacobian_free' leaves no failed sample for on_failure='nan': choose one."
        )

    policy, controls = _Policy(fallback, on_failure), Controls(tol, max_steps, acceptable)
    if forward_mode:
        return BothModes(solver, policy, controls)
    return WithBackward(ByAdjointState(_Solve(solver, policy)), controls)


@dataclasses.dataclass(frozen=True)
class _Solve:
    """The adjoint state by a solver, and what becomes of a sample where that fails."""

    solver: Callable[..., Solution]
    policy: "_Policy"

    def __call__(
        self, transpose: Transpose, cotangent: State, kept: Kept
    ) -> tuple[State, BackwardStats]:
        tol, max_steps, acceptable = kept.controls.settled(cotangent)
        w, report = solve_adjoint_state(
            transpose, cotangent, cotangent, solver=self.solver, tol=tol, max_steps=max_steps
        )
        return self.policy(w, cotangent, report, acceptable), report


@dataclasses.dataclass(frozen=True)
class _Policy:
    """What becomes of w where the solve of w = A w + v failed."""

    fallback: str | None
    on_failure: str

    def __call__(
        self, w: State, v: State, report: BackwardStats | Stats, acceptable: Scalar
    ) -> State:
        failed = (report.status == int(Status.DIVERGED)) | ~(report.residual <= acceptable)
        if self.fallback:
            w = algebra.select(failed, v, w)
        elif self.on_failure == "nan":
            w = algebra.scale(jnp.where(failed, jnp.nan, 1), w)
        elif self.on_failure == "bound":
            w = algebra.rescale(w, jnp.where(failed, _shortening(w, v, report.residual), 1))
        return w


def _shortening(w: State, cotangent: State, residual: PerSample) -> PerSample:
    """(batch,) at most 1: what makes residual * ||w|| no longer than the cotangent."""
    length, unexplained = algebra.norm(cotangent), residual * algebra.norm(w)
    factor = length / jnp.where(unexplained > length, unexplained, length)
    # a cotangent of zeros has w = 0, and one that is not finite stays so
    return lax.stop_gradient(jnp.where(jnp.isfinite(factor), factor, 1))


def solve_adjoint_state(
    transpose: Transpose,
    cotangent: State,
    start: State,
    *,
    solver: Callable[..., Solution],
    tol: Scalar,
    max_steps: Scalar,
) -> tuple[State, BackwardStats]:
    """Solve w = J^T w + v from a start; differentiable by `implicit` with the same solver."""

    def adjoint_map(w: State, v: State) -> State:
        return algebra.add(transpose(w), v)

    start, pure, operands = hoist(adjoint_map, start, (cotangent,))
    again = implicit(solver, tol, max_steps)
    solution = again(pure, start, operands, solver=solver, tol=tol, max_steps=max_steps, probe=None)
    stats = solution.stats
    return solution.value, BackwardStats(stats.steps, stats.residual, stats.status)
