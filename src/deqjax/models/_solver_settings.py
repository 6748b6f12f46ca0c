"""How an equilibrium model is solved and differentiated, as plain values."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

from deqjax import adjoints, solvers
from deqjax.adjoints import Adjoint
from deqjax.solvers import Solution


@dataclasses.dataclass(frozen=True)
class SolverSettings:
    """How the equilibrium is found and differentiated.

    Attributes:
        method: forward solver, a name in :mod:`deqjax.solvers`.
        max_steps: forward steps at most.
        tol: relative residual at which a sequence stops.
        damping: of picard, anderson and reversible; None is the solver's own.
        adjoint: rule for the gradient, a name in :mod:`deqjax.adjoints`. "reversible" goes with
            the method "reversible", "shine" with "broyden".
        backward_method: solver of the implicit adjoint.
        backward_max_steps: backward steps at most: of the implicit adjoint's solve (0 is the
            Jacobian-free gradient), terms of neumann, steps of phantom.
        backward_tol: relative residual of the backward solve; for the reversible adjoint, the
            relative error at which it reports lost precision.
        history: of anderson and broyden, in both directions.
        ridge: Anderson's relative Tikhonov weight.
    """

    method: Literal["picard", "anderson", "broyden", "newton_krylov", "reversible"] = "anderson"
    max_steps: int = 12
    tol: float = 1e-3
    damping: float | None = None
    adjoint: Literal[
        "implicit", "jacobian_free", "neumann", "phantom", "shine", "reversible", "unrolled"
    ] = "implicit"
    backward_method: Literal["picard", "anderson", "broyden", "gmres"] = "anderson"
    backward_max_steps: int = 12
    backward_tol: float = 1e-3
    history: int = 6
    ridge: float = 1e-5

    def build_solver(self) -> Callable[..., Solution]:
        """The forward solver, a function of f, z0, tol and max_steps."""
        return self._solver(self.method, self.damping)

    def build_adjoint(self) -> Adjoint:
        """The rule for the gradient.

        Raises:
            ValueError: the adjoint needs another method than the one that is set.
        """
        needed = {"reversible": "reversible", "shine": "broyden"}.get(self.adjoint, self.method)
        if needed != self.method:
            raise ValueError(
                f"the adjoint {self.adjoint!r} needs the method {needed!r}, got {self.method!r}."
            )
        match self.adjoint:
            case "implicit":
                return adjoints.implicit(
                    self._solver(self.backward_method), self.backward_tol, self.backward_max_steps
                )
            case "neumann":
                return adjoints.neumann(self.backward_max_steps)
            case "phantom":
                return adjoints.phantom(self.backward_max_steps)
            case "reversible":
                return adjoints.reversible(self.backward_tol)
            case other:
                rule: Adjoint = getattr(adjoints, other)()
                return rule

    def _solver(self, name: str, damping: float | None = None) -> Callable[..., Solution]:
        options: dict[str, Any] = {} if damping is None else {"damping": damping}
        if name == "anderson":
            options |= {"history": self.history, "ridge": self.ridge}
        if name == "broyden":
            options |= {"rank": self.history}
        return functools.partial(getattr(solvers, name), **options)
