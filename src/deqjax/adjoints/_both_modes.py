"""Implicit differentiation in forward and in reverse mode, of any order."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.flatten import ravel, unravel
from deqjax._core.hoist import PureMap
from deqjax._core.manual_axes import vary, varying_axes
from deqjax._core.sharding import zeros_like
from deqjax._core.tolerance import Controls
from deqjax._core.types import Operands, Scalar, State
from deqjax.adjoints._forward import solve_forward
from deqjax.adjoints._pattern import split_operands
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution, Stats

_COUNTS = ("steps", "status", "evaluations", "low_evaluations")  # the last may be None

Settle = Callable[[State, State, Stats, Any], State]
"""``settle(w, right, stats, acceptable)``: what becomes of w where its solve failed."""


@dataclasses.dataclass(frozen=True)
class BothModes:
    """A `custom_jvp` whose tangent is the solution of a linear system, which transposes.

    With J = df/dz at z* and a tangent t of the operands, the tangent of z* solves
    dz = J dz + (df/da) t. As a `lax.custom_linear_solve` it is linear in t: its transpose is the
    adjoint system w = J^T w + v, and its own derivatives are linear systems again.
    """

    solver: Callable[..., Solution]
    settle: Settle
    controls: Controls  # of the linear solves

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
        """Return the solution, differentiable in the operands."""
        if probe is not None:
            raise ValueError(
                "implicit(forward_mode=True) has no backward pass that could fill a probe: leave "
                "probe out, or use implicit()."
            )
        continuous, discrete, join = split_operands(operands)

        @jax.custom_jvp
        def solve(
            z0: State, continuous: Any, discrete: Any, limits: Any, controls: Any
        ) -> Solution:
            del controls  # for the tangents
            tol, max_steps = limits
            operands = join(continuous, discrete)
            found = solve_forward(f, z0, operands, solver=solver, tol=tol, max_steps=max_steps)
            return _counted_in(jnp.float32, found._replace(memory=None))

        @solve.defjvp
        def push(primals: Any, tangents: Any) -> tuple[Solution, Solution]:
            solution = solve(*primals)
            _, continuous, discrete, _, controls = primals

            def at_end(z: State, continuous: Any) -> State:
                return f(z, f.at_end(join(continuous, discrete), solution))

            def tangent_at(point: State) -> State:
                _, right = jax.jvp(lambda a: at_end(point, a), (continuous,), (tangents[1],))
                _, product = jax.linearize(lambda z: at_end(z, continuous), point)
                return self._solve_linear(product, right, controls)

            rows = solution.trajectory
            if rows is not None:
                rows = lax.map(tangent_at, rows)
            zeros = zeros_like(solution)
            return solution, zeros._replace(value=tangent_at(solution.value), trajectory=rows)

        limits = (
            jnp.asarray(tol, algebra.accumulation_dtype(z0)),
            jnp.asarray(max_steps, jnp.int32),
        )
        controls = jax.tree.map(jnp.asarray, self.controls)
        solution = _counted_in(jnp.int32, solve(z0, continuous, discrete, limits, controls))
        return solution._replace(stats=lax.stop_gradient(solution.stats))

    def _solve_linear(
        self, product: Callable[[State], State], right: State, controls: Any
    ) -> State:
        """X = J x + b, for the product with J; differentiable and transposable."""
        # inside of shard_map, what the solve closes over must vary before it as right does
        told: Controls = vary(controls, varying_axes(right))
        tol, max_steps, acceptable = told.settled(right)
        dtype = algebra.accumulation_dtype(right)

        # one array: a leaf that no operand reaches would be no linear input, and not transpose
        def difference(x: jax.Array) -> jax.Array:
            return x - ravel(product(unravel(x, right)), dtype)

        def solve(difference: Callable[[jax.Array], jax.Array], right: jax.Array) -> jax.Array:
            found = self.solver(
                lambda x: x - difference(x) + right, right, tol=tol, max_steps=max_steps
            )
            settled: jax.Array = self.settle(found.value, right, found.stats, acceptable)
            return settled

        found = lax.custom_linear_solve(
            difference, ravel(right, dtype), solve, transpose_solve=solve
        )
        return unravel(found, right)


def _counted_in(dtype: Any, solution: Solution) -> Solution:
    """The counts of a solution in another dtype.

    The tangent of an integer is none that could vary over the devices of `jax.shard_map`, where
    the integer itself does; float32 holds counts up to 16 million.
    """
    stats = solution.stats
    counts = {name: getattr(stats, name) for name in _COUNTS}
    counted = jax.tree.map(lambda count: count.astype(dtype), counts)
    return solution._replace(stats=stats._replace(**counted))
