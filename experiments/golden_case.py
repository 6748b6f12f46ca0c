"""What the comparisons of golden.py share: a case, its errors, and how fixed points are solved."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from deqjax import solvers

LIMIT = 1e-4
# what a fixed point in float32 is expected to reach, and what the solvers are asked for
RESIDUAL, TOL = 1e-6, 5e-8
STEPS = 200


class CaseError(ValueError):
    """A case that cannot be compared, and why."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: the errors of one segment or one model."""

    name: str
    errors: dict[str, float]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """What the three files of a case hold."""

    name: str
    state: Mapping[str, np.ndarray]
    config: dict[str, Any]
    arrays: Mapping[str, np.ndarray]

    def array(self, name: str) -> np.ndarray:
        """One of the published arrays."""
        if name not in self.arrays:
            raise CaseError(f"{self.name}.npz lacks {name!r}; write the case again.")
        return self.arrays[name]

    def error(self, name: str, ours: jax.Array) -> float:
        """The relative error against one of the published arrays."""
        theirs = self.array(name).astype(np.float64)
        if ours.shape != theirs.shape:
            raise CaseError(f"{name} has shape {theirs.shape}, but ours has {ours.shape}.")
        return relative_error(np.asarray(ours, np.float64), theirs)


class Solved(NamedTuple):
    """A fixed point found in float32.

    Attributes:
        value: z*.
        rest: what the model made of it.
        residual: the largest of the batch, relative.
    """

    value: Any
    rest: Any
    residual: jax.Array


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The larger of the largest element's and the norm's; NaN if anything is NaN."""
    if theirs.size == 0:
        return 0.0
    difference = np.abs(ours - theirs)
    sizes = np.array([np.max(np.abs(theirs)), np.linalg.norm(theirs)])
    errors = np.array([np.max(difference), np.linalg.norm(difference)])
    # where all is zero, all of a difference counts
    return float(np.max(errors / np.where(sizes > 0, sizes, 1)))


def derivatives(f: Callable[[Any], Any], z: Any, v: Any) -> tuple[Any, Any, Any]:
    """f(z), J v and v J."""
    value, tangent = jax.jvp(f, (z,), (v,))
    (cotangent,) = jax.vjp(f, z)[1](v)
    return value, tangent, cotangent


def equilibrium(
    run: Callable[[Callable[..., solvers.Solution], Any], Solved],
    published: Any,
    error: Callable[[Any], float],
) -> tuple[Solved, str]:
    """Solve from zero, and again from the published fixed point where zero leads to another one.

    Args:
        run: solves with a solver from a start.
        published: the fixed point of the case, which must hold still if a solve starts there.
        error: of a fixed point against it.

    Returns:
        The solution, and a note if something is remarkable.
    """
    note, solved = "", _solve(run, jax.tree.map(np.zeros_like, published))
    if not error(solved.value) <= LIMIT:
        again = _solve(run, published)
        if error(again.value) <= LIMIT and float(again.residual) <= RESIDUAL:
            solved, note = again, "zeros lead to another fixed point"
    if not float(solved.residual) <= RESIDUAL:
        note = f"residual of z* only {float(solved.residual):.1e}"
    return solved, note


def _solve(run: Callable[[Callable[..., solvers.Solution], Any], Solved], z0: Any) -> Solved:
    solved = run(anderson, z0)
    if float(solved.residual) <= RESIDUAL:
        return solved
    # maps with a spectral radius above 1 are Newton's
    again = run(_newton, solved.value)
    return again if float(again.residual) < float(solved.residual) else solved


# functions and not partial objects, so that cases of one shape share one compilation


def anderson(f: Any, z0: Any, **options: Any) -> solvers.Solution:
    """Anderson's method with a long memory."""
    return solvers.anderson(f, z0, history=20, ridge=1e-7, **options)


def _newton(f: Any, z0: Any, **options: Any) -> solvers.Solution:
    return solvers.newton_krylov(f, z0, krylov=40, **options)
