"""A contender on a problem: run, counted, and judged by the root that its value is near to."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contenders import load
from counter import Counter
from equations import Problem, as_map, as_residual
from root_contenders import BUDGET, Entry

# each contender's own, loosest first; the first that gives the root counts
TOLERANCES = (1e-7, 1e-9, 1e-12)
# of those that would compile a program for each
FIXED_TOLERANCES = (1e-9,)
ERROR = 1e-6


class Attempt(NamedTuple):
    """What came out.

    Attributes:
        evaluations: of f or F, and directional derivatives; None where it was not solved.
        tolerance: its own at which it was.
    """

    evaluations: int | None
    tolerance: float | None


class Attempts:
    """Runs attempts; problems of one equation and size share their programs."""

    def __init__(self) -> None:
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._counter = Counter()

    def attempt(self, entry: Entry, problem: Problem) -> Attempt:
        """Solve at one tolerance after another, until one gives a root."""
        for tol in FIXED_TOLERANCES if entry.contender.fixed_tol else TOLERANCES:
            self._counter.count = 0
            value = self._run(entry, problem, tol)
            evaluations = self._counter.count
            if entry.takes == "counted map":
                value, evaluations = value[0], int(value[1])
            value = np.asarray(value, np.float64).ravel()
            if evaluations <= BUDGET and self.is_root(problem, value):
                return Attempt(evaluations, tol)
            # a finer tolerance does not help who did not reach this one
            if evaluations >= BUDGET - 1 or not np.all(np.isfinite(value)):
                break
        return Attempt(None, None)

    def is_root(self, problem: Problem, z: np.ndarray) -> bool:
        """Whether Newton's method with a dense Jacobian ends within 1e-6 max(1, ||z||) of z."""
        residual = self._program("residual", problem, as_residual)
        jacobian = self._program("jacobian", problem, lambda p: jax.jacfwd(as_residual(p)))
        if not np.all(np.isfinite(z)):
            return False
        room = ERROR * max(1.0, np.linalg.norm(z))
        x, scale = z, 1 + np.linalg.norm(residual(problem.start, problem.args))
        for _ in range(60):
            value, slope = residual(x, problem.args), jacobian(x, problem.args)
            if not (np.all(np.isfinite(value)) and np.all(np.isfinite(slope))):
                return False
            step = np.linalg.lstsq(np.asarray(slope), np.asarray(value))[0]
            x = x - step
            if np.linalg.norm(x - z) > room:
                return False
            if np.linalg.norm(step) <= 1e-6 * room:
                # a minimum of ||F|| is no root
                return bool(np.linalg.norm(value) <= 1e-9 * scale)
        return False

    def _run(self, entry: Entry, problem: Problem, tol: float) -> Any:
        solve, start = entry.contender.solve, problem.start
        if entry.takes == "host root":
            residual = self._program("residual", problem, as_residual)
            return solve(self._on_host(residual, problem), start, tol)
        if entry.takes == "torch":
            torch = load("torch")
            f = self._on_host(self._program("map", problem, as_map), problem)
            try:
                with torch.inference_mode():
                    return solve(
                        lambda z: torch.tensor(f(z.numpy())), torch.tensor(start[None]), tol
                    )
            except torch.linalg.LinAlgError:  # it lets a singular history through
                return np.full_like(start, np.nan)

        def make(problem: Problem) -> Callable[..., Any]:
            if entry.takes == "root":
                residual = self._counter.counting(as_residual(problem))
                return lambda args, tol: solve(residual, args, jnp.asarray(problem.start), tol)
            f = as_map(problem)
            if entry.takes == "map":
                f = self._counter.counting(f)
            start = jnp.asarray(problem.start)[None]
            return lambda args, tol: solve(lambda z, args, _: f(z, args), args, (), start, tol)

        # a tolerance that is a constant of the program is part of its name
        fixed = entry.contender.fixed_tol
        program = self._program(
            (entry.contender.name, tol if fixed else None), problem, make, fixed
        )
        return program(problem.args, tol)

    def _on_host(self, f: Callable[..., Any], problem: Problem) -> Callable[[Any], Any]:
        def counted(x: Any) -> Any:
            self._counter.note(1)
            return np.array(f(x, problem.args))

        return counted

    def _program(
        self,
        what: Any,
        problem: Problem,
        make: Callable[[Problem], Callable[..., Any]],
        fixed: bool = False,
    ) -> Callable[..., Any]:
        key = (what, problem.equation, problem.start.tobytes(), problem.is_map)
        if key not in self._programs:
            static = {"static_argnums": 1} if fixed else {}
            self._programs[key] = jax.jit(make(problem), **static)
        return self._programs[key]
