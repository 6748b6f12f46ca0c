"""One solve of an equilibrium layer, be it NNX's or Linen's."""

from collections.abc import Callable
from typing import Any, Protocol

from deqjax._core.types import Map, Operands, Scalar, State
from deqjax._fixed_point import fixed_point
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.solvers import Solution


class Layer(Protocol):
    """What an equilibrium layer has."""

    @property
    def solver(self) -> Callable[..., Solution]: ...

    @property
    def adjoint(self) -> Adjoint | None: ...

    @property
    def max_steps(self) -> Scalar: ...

    @property
    def tol(self) -> Scalar: ...

    @property
    def coupled(self) -> bool: ...

    @property
    def has_aux(self) -> bool: ...

    @property
    def numbered(self) -> bool: ...

    @property
    def debug(self) -> bool: ...


def solve_layer(
    layer: Layer,
    f: Map,
    z0: State,
    u: Operands,
    *,
    probe: BackwardStats | None,
    tol: Scalar | None,
    max_steps: Scalar | None,
    segments: Any,
) -> Solution:
    """Solve z* = f(z*, u) as a layer is set; a tolerance or a limit of None is the layer's own."""
    return fixed_point(
        f,
        z0,
        u,
        solver=layer.solver,
        adjoint=layer.adjoint,
        tol=layer.tol if tol is None else tol,
        max_steps=layer.max_steps if max_steps is None else max_steps,
        probe=probe,
        coupled=layer.coupled,
        segments=segments,
        has_aux=layer.has_aux,
        numbered=layer.numbered,
        debug=layer.debug,
    )
