"""Implicit differentiation: the adjoint state is itself a fixed point."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from deqjax import _tree
from deqjax._hoist import PureMap, hoist
from deqjax._types import Operands, Scalar, State
from deqjax.adjoints._pattern import Adjoint, Transpose, solve_with_rule
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution, anderson
from deqjax.solvers._validate import check_count, check_not_negative


def implicit(
    solver: Callable[..., Solution] = anderson, tol: Scalar = 1e-5, max_steps: Scalar = 30
) -> Adjoint:
    """Gradients by the implicit function theorem, at memory independent of the number of steps.

    With the cotangent v of z* and J = df/dz at z*, solves

        w = J^T w + v,    then    gradient of the operands = (df/da)^T w

    (Bai, Kolter & Koltun, NeurIPS 2019, theorem 1). f is linearized once. The solve starts at v, so
    that zero steps give the Jacobian-free gradient of Fung et al. (AAAI 2022), and v is scaled to
    about 1 first. A sample whose solve does not converge keeps its best w; the probe tells. Since
    the solve is a fixed point with this same adjoint, the gradient can be differentiated again.

    Args:
        solver: for the backward system; any solver of this library or of the same signature.
        tol: relative residual at which a sample's backward solve stops; may be traced.
        max_steps: most backward steps, 0 or more; may be traced.

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.

    Raises:
        ValueError, TypeError: a negative tolerance or step limit.
    """
    check_not_negative("the backward tol", tol)
    check_count("the backward max_steps", max_steps, least=0)
    return _Implicit(solver, tol, max_steps)


@dataclasses.dataclass(frozen=True)
class _Implicit:
    solver: Callable[..., Solution]
    tol: Scalar
    max_steps: Scalar

    def __call__(
        self,
        f: PureMap,
        z0: State,
        operands: Operands,
        *,
        solver: Callable[..., Solution],
        tol: Scalar,
        max_steps: Scalar,
        probe: BackwardStats | None,
    ) -> Solution:
        controls = (
            jnp.asarray(self.tol, _tree.accumulation_dtype(z0)),
            jnp.asarray(self.max_steps, jnp.int32),
        )
        return solve_with_rule(
            self._adjoint_state,
            f,
            z0,
            operands,
            solver=solver,
            tol=tol,
            max_steps=max_steps,
            controls=controls,
            probe=probe,
        )

    def _adjoint_state(
        self, transpose: Transpose, cotangent: State, controls: Any
    ) -> tuple[State, BackwardStats]:
        tol, max_steps = controls

        def adjoint_map(w: State, v: State) -> State:
            return _tree.add(transpose(w), v)

        pure, operands = hoist(adjoint_map, cotangent, (cotangent,))
        again = _Implicit(self.solver, tol, max_steps)
        solution = again(
            pure,
            cotangent,
            operands,
            solver=self.solver,
            tol=tol,
            max_steps=max_steps,
            probe=None,
        )
        stats = solution.stats
        return solution.value, BackwardStats(stats.steps, stats.residual, stats.status)
