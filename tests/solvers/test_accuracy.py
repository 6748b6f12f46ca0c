"""Every solver against every problem with a known fixed point."""

from functools import partial

import jax
import numpy as np
import pytest

from deqjax import Status
from deqjax.solvers import anderson, picard
from problems import CONTRACTING, PROBLEMS, ravel

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

SOLVABLE = {
    "picard": (picard, CONTRACTING),
    "anderson": (anderson, PROBLEMS),
}
CASES = [
    pytest.param(solver, problem, id=f"{name}, {problem.name}")
    for name, (solver, problems) in SOLVABLE.items()
    for problem in problems.values()
]


@partial(jax.jit, static_argnames=("solver", "f"))
def solve(solver, f, z0, args, tol):
    return solver(lambda z: f(z, *args), z0, tol=tol, max_steps=5000)


@pytest.mark.parametrize(("solver", "problem"), CASES)
def test_finds_the_known_fixed_point(solver, problem):
    solution = solve(solver, problem.f, *problem.cast(float), tol=1e-13)
    assert (solution.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(ravel(solution.value), ravel(problem.solution), atol=1e-10)


def test_anderson_needs_far_fewer_steps_than_picard():
    problem = PROBLEMS["radius 0.99"]
    few, many = (
        solve(solver, problem.f, *problem.cast(float), tol=1e-6).stats.steps
        for solver in (anderson, picard)
    )
    assert (20 * few < many).all()
