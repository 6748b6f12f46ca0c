"""How an equilibrium model is solved and differentiated, as plain values."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Interval

from deqjax import adjoints, solvers
from deqjax._core.tolerance import reachable
from deqjax._core.types import State
from deqjax._ranges import NotNegative, PositiveShare, Steps
from deqjax.adjoints import Adjoint
from deqjax.models._precision import Precision
from deqjax.nn import DEQ
from deqjax.solvers import Solution

# so many states are kept at once
_History = Annotated[int, Interval(ge=1, le=1_000)]
# what these adjoints ask of the forward solve that one in two precisions does not give
_NOT_MIXED = {
    "unrolled": "differentiates all steps",
    "shine": "needs what broyden learns in a whole solve",
}


@dataclasses.dataclass(frozen=True)
class SolverSettings:
    """How the equilibrium is found and differentiated.

    Attributes:
        method: forward solver, a name in [`deqjax.solvers`][].
        max_steps: forward steps at most.
        min_steps: forward steps before a sample may stop as converged.
        tol: residual at which a sample stops.
        damping: length of a step, 1 is undamped; below 1 with reversible, whose step could not be
            undone. None is the solver's own.
        adjoint: rule for the gradient, a name in [`deqjax.adjoints`][]. "reversible" goes with
            the method "reversible", "shine" with "broyden". "truncated" takes
            ``backward_max_steps`` steps after the solve and differentiates these alone.
        backward_method: solver of the implicit adjoint.
        backward_max_steps: backward steps at most: of the implicit adjoint's solve (0 is the
            Jacobian-free gradient), terms of neumann, steps of phantom and truncated. Those of
            truncated come after ``max_steps``, but for the `Reasoner`, whose passes of
            ``max_steps`` cycles end with them, as published.
        backward_tol: residual of the backward solve; for the reversible adjoint, the
            relative error at which it reports lost precision. None is what the model's dtype can
            show: 1e-5, or 7.8e-3 for a model in bfloat16; 1e-2 for the reversible adjoint.
        backward_clip: of neumann and phantom: cotangents that are pulled back through the layer are
            cut per sample to so many times the length of the loss's; None cuts nothing.
        history: updates that anderson and broyden keep.
        backward_history: of the backward solve; None is the forward one's.
        stop: which residual tol and backward_tol are compared with.
        ridge: Anderson's relative Tikhonov weight.
        returns: what a sample that did not converge is worth: the state that changed least, or the
            "last" of picard or anderson.
    """

    method: Literal["picard", "anderson", "broyden", "newton_krylov", "reversible"] = "anderson"
    max_steps: Steps = 12
    min_steps: Annotated[int, Interval(ge=0, le=100_000)] = 0
    tol: NotNegative = 1e-3
    damping: PositiveShare | None = None
    adjoint: Literal[
        "implicit",
        "jacobian_free",
        "neumann",
        "phantom",
        "truncated",
        "shine",
        "reversible",
        "unrolled",
    ] = "implicit"
    backward_method: Literal["picard", "anderson", "broyden", "gmres"] = "anderson"
    backward_max_steps: Annotated[int, Interval(ge=0, le=100_000)] = 12
    backward_tol: NotNegative | None = 1e-3
    backward_clip: NotNegative | None = None
    history: _History = 6
    backward_history: _History | None = None
    stop: Literal["relative", "absolute"] = "relative"
    ridge: NotNegative = 1e-5
    returns: Literal["best", "last"] = "best"

    def build_solver(self, precision: Precision = "float32") -> Callable[..., Solution]:
        """The forward solver, a function of f, z0, tol and max_steps.

        Raises:
            ValueError: the damping, or what is returned, is nothing that the method can have.
        """
        if self.method == "reversible" and self.damping == 1:
            raise ValueError("the method 'reversible' needs a damping below 1, got 1.")
        solver = self._solver(self.method, self.history, self.damping)
        if self.returns == "last":
            if self.method not in ("picard", "anderson"):
                raise ValueError(
                    f"returns 'last' goes with the methods 'picard' and 'anderson', got "
                    f"{self.method!r}."
                )
            solver = functools.partial(solver, returns="last")
        if self.min_steps:
            solver = functools.partial(solver, min_steps=self.min_steps)
        return _in(precision, solver)

    def check_precision(self, precision: Precision) -> None:
        """Raise a ValueError if the solve cannot be in that precision."""
        if precision == "mixed" and "reversible" in (self.method, self.adjoint):
            raise ValueError(
                "'mixed' does not go with the method 'reversible', whose steps are undone in the "
                "precision that they were taken in."
            )
        reason = _NOT_MIXED.get(self.adjoint)
        if precision == "mixed" and reason is not None:
            raise ValueError(
                f"'mixed' does not go with the adjoint {self.adjoint!r}, which {reason}; take "
                "'implicit'."
            )

    def build_adjoint(self, precision: Precision = "float32") -> Adjoint:
        """The rule for the gradient, for a model of that precision.

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
                kept = self.history if self.backward_history is None else self.backward_history
                backward = self._solver(self.backward_method, kept)  # mixed, it saves nothing
                tol = self.backward_tol
                if tol is None and precision == "bfloat16":  # which z, in float32, does not tell
                    tol = reachable(precision)
                return adjoints.implicit(backward, tol, self.backward_max_steps)
            case "neumann":
                return adjoints.neumann(self.backward_max_steps, clip=self.backward_clip)
            case "phantom":
                return adjoints.phantom(self.backward_max_steps, clip=self.backward_clip)
            case "truncated":
                return adjoints.truncated(self.backward_max_steps)
            case "reversible":
                given = () if self.backward_tol is None else (self.backward_tol,)
                return adjoints.reversible(*given)
            case other:
                rule: Adjoint = getattr(adjoints, other)()
                return rule

    def build_layer(
        self,
        cell: Callable[..., State],
        solver: Callable[..., Solution] | None = None,
        adjoint: Adjoint | None = None,
        precision: Precision = "float32",
        *,
        numbered: bool = False,
    ) -> DEQ:
        """The equilibrium layer around a cell; a solver or adjoint given replaces the settings'.

        A ``numbered`` cell sees the number of the step.

        Raises:
            ValueError: method, adjoint, damping and precision do not go together.
        """
        if solver is None:  # one that is given is not mixed
            ours = self if adjoint is None else dataclasses.replace(self, adjoint="implicit")
            ours.check_precision(precision)
        return DEQ(
            cell,
            solver=self.build_solver(precision) if solver is None else solver,
            adjoint=self.build_adjoint(precision) if adjoint is None else adjoint,
            tol=self.tol,
            max_steps=self.max_steps,
            numbered=numbered,
        )

    def _solver(
        self, name: str, history: int, damping: float | None = None
    ) -> Callable[..., Solution]:
        options: dict[str, Any] = {} if damping is None else {"damping": damping}
        if self.stop != "relative":
            options["stop"] = self.stop
        if name == "anderson":
            options |= {"history": history, "ridge": self.ridge}
        if name == "broyden":
            options |= {"rank": history}
        return functools.partial(getattr(solvers, name), **options)


def _in(precision: Precision, solver: Callable[..., Solution]) -> Callable[..., Solution]:
    if precision != "mixed":
        return solver
    return functools.partial(solvers.mixed_precision, solver=solver)
