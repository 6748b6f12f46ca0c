"""The forward solve, as every rule calls it."""

import functools
from collections.abc import Callable
from typing import Any

from deqjax._core.hoist import PureMap
from deqjax._core.types import Operands, Scalar, State
from deqjax.solvers import Solution


def solve_forward(
    f: PureMap,
    z0: State,
    operands: Operands,
    *,
    solver: Callable[..., Solution],
    tol: Scalar,
    max_steps: Scalar,
    **options: Any,
) -> Solution:
    """Solve z = f(z, operands) by the solver that a rule was given; for adjoints of your own.

    Args:
        f: the map that [`Adjoint`][deqjax.adjoints.Adjoint] hands over. If it sees the step's
            number (``numbered=True``), so it does here.
        z0: start, leaves (batch, ...).
        operands: what f is evaluated with; their gradient is that of the solver's own loop.
        solver: as handed over, likewise ``tol`` and ``max_steps``.
        tol: a sample stops when its residual is at most this.
        max_steps: most updates of z.
        **options: further ones for the solver, such as ``differentiable=True``.

    Returns:
        [`deqjax.Solution`][].

    Raises:
        TypeError: the solver returns no Solution, or does not number its evaluations and f asks
            for it.
    """

    def evaluate(z: State, *step: Any) -> State:
        return f(z, f.at_step(operands, *step) if step else operands)

    if f.numbered:
        solver = functools.partial(
            _with_option,
            solver,
            "numbered",
            "f takes the step (numbered=True) and {} does not number its evaluations: use a solver "
            "of deqjax.solvers, such as picard.",
        )
    return check_solution(solver(evaluate, z0, tol=tol, max_steps=max_steps, **options), solver)


def keep_memory(
    solver: Callable[..., Solution], memory: type, needs: str, *problem: Any, **options: Any
) -> Solution:
    """Solve with a solver that hands its memory out, or say in one sentence that it does not."""
    refusal = (
        f"this adjoint works from what deqjax.solvers.{needs} keeps and {{}} does not: "
        f"pass solver=deqjax.solvers.{needs}."
    )
    solution = _with_option(solver, "keep_memory", refusal, *problem, **options)
    if not isinstance(solution.memory, memory):
        raise TypeError(refusal.format(_name(solver)))
    return solution


def _with_option(
    solver: Callable[..., Solution], option: str, refusal: str, *problem: Any, **options: Any
) -> Solution:
    """Solve with a flag of the solver on, or say in one sentence that it has none."""
    try:
        return solver(*problem, **{option: True}, **options)
    except TypeError as error:
        if f"'{option}'" not in str(error):
            raise
        raise TypeError(refusal.format(_name(solver))) from error


def check_solution(solution: Any, solver: Callable[..., Any]) -> Solution:
    """Return what a solver returned, or raise a TypeError if that is no Solution."""
    if not isinstance(solution, Solution):
        raise TypeError(
            f"the solver {_name(solver)} returned {type(solution).__name__}: a solver returns a "
            "deqjax.Solution with value and stats."
        )
    return solution


def _name(solver: Callable[..., Any]) -> Any:
    """The name of the function below the partials."""
    if isinstance(solver, functools.partial):
        wrapped = solver.func in (_with_option, keep_memory)
        return _name(solver.args[0] if wrapped else solver.func)
    return getattr(solver, "__name__", solver)
