"""The equilibrium layer: any NNX cell, iterated to its fixed point."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax._fixed_point import fixed_point
from deqjax._types import Map, Operands, Scalar, State
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.nn._freeze import freeze
from deqjax.solvers import Solution, anderson


class DEQ(nnx.Module):
    """z* = cell(z*, u): an NNX cell as a layer of infinite depth.

    The cell is any NNX module (or function) ``cell(z, u) -> z'``: z a pytree of (batch, ...)
    arrays, u what does not depend on z (input injection, positions), computed once before the
    solve. Its dropout masks are drawn once per call and held for the whole solve, forward and
    backward; the next call draws new ones. A cell may not change its state while it is iterated.

    Attributes:
        cell: the layer.
        solver: forward solver, as for :func:`deqjax.fixed_point`.
        adjoint: rule for the gradient; None is ``deqjax.adjoints.implicit()``.
        tol: default relative tolerance; a call may override it with a run-time value.
        max_steps: default step limit; likewise.
        debug: check in each call that two evaluations of the cell at one z agree.
    """

    def __init__(
        self,
        cell: Callable[[State, Operands], State],
        *,
        solver: Callable[..., Solution] = anderson,
        adjoint: Adjoint | None = None,
        tol: float = 1e-3,
        max_steps: int = 30,
        debug: bool = False,
    ) -> None:
        self.cell = cell
        self.solver = solver
        self.adjoint = adjoint
        self.tol = tol
        self.max_steps = max_steps
        self.debug = debug

    def freeze(self, u: Operands, z0: State | None = None) -> Map:
        """The cell as a pure function f(z, u) with this call's dropout masks.

        Give it to ``__call__`` and to :func:`deqjax.jacobian_penalty`, so that both see one map.
        It is differentiable in the cell's parameters, which it closes over.

        Raises:
            CellStateError: the cell changes its state, such as running batch statistics.
        """
        return freeze(self.cell, _start(u, z0), u)

    def __call__(
        self,
        u: Operands,
        *,
        z0: State | None = None,
        f: Map | None = None,
        probe: BackwardStats | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
    ) -> Solution:
        """Solve z* = cell(z*, u).

        Args:
            u: the cell's second argument; gets gradients.
            z0: start, leaves (batch, ...); None is zeros of u's structure and shapes.
            f: a map from :meth:`freeze`, to share its dropout masks; None draws new ones.
            probe: :func:`deqjax.backward_probe` of this batch.
            tol: overrides the layer's tolerance, may be traced.
            max_steps: overrides the layer's step limit, may be traced.

        Returns:
            :class:`deqjax.Solution`.

        Raises:
            CellStateError: the cell changes its state.
            ValueError, TypeError: as :func:`deqjax.fixed_point`.
        """
        start = _start(u, z0)
        return fixed_point(
            self.freeze(u, start) if f is None else f,
            start,
            u,
            solver=self.solver,
            adjoint=self.adjoint,
            tol=self.tol if tol is None else tol,
            max_steps=self.max_steps if max_steps is None else max_steps,
            probe=probe,
            debug=self.debug,
        )


def _start(u: Operands, z0: State | None) -> Any:
    return jax.tree.map(jnp.zeros_like, u) if z0 is None else z0
