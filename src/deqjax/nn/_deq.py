"""The equilibrium layer: any NNX cell, iterated to its fixed point."""

import types
from collections.abc import Callable
from typing import Any, TypeVar, cast

from flax import nnx

from deqjax._core.segments import Segments
from deqjax._core.types import Map, Operands, Scalar, State
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.nn._cells import check_nnx_cell, end_step, start
from deqjax.nn._freeze import FrozenCell, freeze
from deqjax.nn._observe import Observable
from deqjax.nn._solve_layer import solve_layer
from deqjax.solvers import Solution, anderson

Method = TypeVar("Method", bound=Callable[..., Any])


class _NoFunction:
    """A method that inspection of the class does not take for a function."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.__doc__ = method.__doc__
        self.method = method

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self.method, instance)


def _left_alone_by_tabulate(method: Method) -> Method:
    """`nnx.tabulate` puts every public method that it finds under jit, which returns no function.

    It raises there, and leaves the classes of the model wrapped for the rest of the process.
    """
    return cast(Method, _NoFunction(method))


class DEQ(Observable, nnx.Module):
    """z* = cell(z*, u): an NNX cell as a layer of infinite depth.

    The cell is any NNX module (or function) ``cell(z, u) -> z'``: z a pytree of (batch, ...)
    arrays, u what does not depend on z (input injection, positions), computed once before the
    solve. Its dropout masks are drawn once per call and held for the whole solve, forward and
    backward; the next call draws new ones. A cell may not change its state while it is iterated.

    Attributes:
        cell: the layer.
        solver: forward solver, as for [`deqjax.fixed_point`][].
        adjoint: rule for the gradient; None is ``deqjax.adjoints.implicit()``.
        tol: default relative tolerance; a call may override it with a run-time value.
        max_steps: default step limit; likewise.
        coupled: the whole state is one sample, as for [`deqjax.fixed_point`][].
        has_aux: the cell returns ``(z', aux)``, and the solution shows the aux of its value.
        numbered: the cell is ``cell(z, u, step=n)`` with the number n of updates that led to z, as
            [`deqjax.fixed_point`][] says.
        debug: check in each call that two evaluations of the cell at one z agree, and that no row
            depends on another.

    Raises:
        TypeError: the cell is a function that holds an NNX module, whose parameters NNX would not
            see and nobody would train.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> import deqjax, deqjax.nn
        >>> class Cell(nnx.Module):
        ...     def __init__(self, width, rngs):
        ...         start = nnx.initializers.normal(0.05)
        ...         self.linear = nnx.Linear(width, width, kernel_init=start, rngs=rngs)
        ...
        ...     def __call__(self, z, u):
        ...         return jnp.tanh(self.linear(z) + u)
        >>> deq = deqjax.nn.DEQ(Cell(16, nnx.Rngs(0)), tol=1e-4)
        >>> solution = deq(jnp.ones((4, 16)))
        >>> print(solution.value.shape, deqjax.Status(int(solution.stats.status[0])).name)
        (4, 16) CONVERGED
    """

    def __init__(
        self,
        cell: Callable[..., State],
        *,
        solver: Callable[..., Solution] = anderson,
        adjoint: Adjoint | None = None,
        tol: float = 1e-3,
        max_steps: int = 30,
        coupled: bool = False,
        has_aux: bool = False,
        numbered: bool = False,
        debug: bool = False,
    ) -> None:
        check_nnx_cell(cell)
        self.cell = cell
        self.solver = solver
        self.adjoint = adjoint
        self.tol = tol
        self.max_steps = max_steps
        self.coupled = coupled
        self.has_aux = has_aux
        self.numbered = numbered
        self.debug = debug

    @_left_alone_by_tabulate
    def freeze(self, u: Operands, z0: State | None = None) -> Map:
        """The cell as a pure function f(z, u) with this call's dropout masks.

        Give it to ``__call__`` and to [`deqjax.jacobian_penalty`][], so that both see one map.
        It is differentiable in the cell's parameters, which it closes over. With ``has_aux`` it
        returns what the cell does; the penalty has the option, too.

        Raises:
            CellStateError: the cell changes its state, such as running batch statistics.
        """
        return freeze(self.cell, start(u, z0), u, numbered=self.numbered)

    def __call__(
        self,
        u: Operands,
        *,
        z0: State | None = None,
        f: Map | None = None,
        probe: BackwardStats | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
        segments: Segments | Any = None,
    ) -> Solution:
        """Solve z* = cell(z*, u).

        Args:
            u: the cell's second argument; gets gradients.
            z0: start, leaves (batch, ...); None is zeros of u's structure and shapes.
            f: a map from [`deqjax.nn.freeze`][], to share its dropout masks; None draws new ones.
            probe: [`deqjax.backward_probe`][] of this batch.
            tol: overrides the layer's tolerance, may be traced.
            max_steps: overrides the layer's step limit, may be traced.
            segments: row -> graph, where rows are nodes of graphs, as for
                [`deqjax.fixed_point`][].

        Returns:
            [`deqjax.Solution`][].

        Raises:
            CellStateError: the cell changes its state.
            ValueError, TypeError: as [`deqjax.fixed_point`][].
        """
        z = start(u, z0)
        f = self.freeze(u, z) if f is None else f

        def solve(f: Map, z: State, **asked: Any) -> Solution:
            return solve_layer(self, f, z, u, segments=segments, **asked)

        asked: dict[str, Any] = {"probe": probe, "tol": tol, "max_steps": max_steps}
        seen = None if self.observer is None else self.observer.observation()
        if self.observer is None or seen is None:
            solution = solve(f, z, **asked)
        else:
            name = self.observer.name
            solution = seen.call(self, name, solve, f, u, z, **asked, segments=segments)
        if isinstance(f, FrozenCell):
            f.capture(self.cell, solution.value, u, **end_step(self.numbered, solution))
        return solution
