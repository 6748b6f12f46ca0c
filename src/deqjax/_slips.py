"""Sentences for what is easily written in place of a solver or an adjoint."""

import functools
from typing import Any

from deqjax import adjoints, solvers
from deqjax.solvers import Solution

_SOLVERS = [name for name in solvers.__all__ if name.islower()]
_HELPERS = {"backward_probe", "backward_steps", "by_adjoint_state", "solve_forward"}
_ADJOINTS = {
    getattr(adjoints, name): name
    for name in adjoints.__all__
    if name.islower() and name not in _HELPERS
}


def check_solver(solver: Any) -> None:
    """Raise a TypeError unless the solver is something to call with a problem."""
    if isinstance(solver, str):
        known = f"deqjax.solvers.{solver}" if solver in _SOLVERS else f"one of {_dotted('solvers')}"
        raise TypeError(f"solver={solver!r} is a name: give the function itself, {known}.")
    if isinstance(solver, Solution):
        raise TypeError(
            "solver is a Solution: give the function itself, not its result; options go in by "
            "functools.partial, as in partial(deqjax.solvers.anderson, history=8)."
        )
    if not callable(solver):
        raise TypeError(
            f"solver must be a function solver(f, z0, *, tol, max_steps), got {solver!r}."
        )


def check_adjoint(adjoint: Any) -> None:
    """Raise a TypeError unless the adjoint is a rule, or None."""
    if isinstance(adjoint, str):
        known = (
            f"deqjax.adjoints.{adjoint}()"
            if adjoint in _ADJOINTS.values()
            else f"one of {_dotted('adjoints')}, called"
        )
        raise TypeError(f"adjoint={adjoint!r} is a name: give the rule itself, {known}.")
    # of a partial, the options are there and the call is not
    made_by = adjoint.func if isinstance(adjoint, functools.partial) else adjoint
    name = next((name for factory, name in _ADJOINTS.items() if factory is made_by), None)
    if name is not None:
        raise TypeError(
            f"adjoint is deqjax.adjoints.{name} itself, which makes a rule when called: give "
            f"deqjax.adjoints.{name}()."
        )
    if adjoint is not None and not callable(adjoint):
        raise TypeError(f"adjoint must be a rule of deqjax.adjoints or None, got {adjoint!r}.")


def _dotted(package: str) -> str:
    names = _SOLVERS if package == "solvers" else _ADJOINTS.values()
    return ", ".join(f"deqjax.{package}.{name}" for name in names)
