"""Every solver against every problem with a known fixed point."""

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


@pytest.mark.parametrize(("solver", "problem"), CASES)
def test_finds_the_known_fixed_point(solver, problem):
    @jax.jit
    def solve(z0, args):
        return solver(lambda z: problem.f(z, *args), z0, tol=1e-13, max_steps=5000)

    solution = solve(*problem.cast(float))
    assert (solution.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(ravel(solution.value), ravel(problem.solution), atol=1e-10)


def test_anderson_needs_far_fewer_steps_than_picard():
    problem = PROBLEMS["radius 0.99"]

    def steps(solver):
        z0, args = problem.cast(float)
        f = jax.jit(lambda z: problem.f(z, *args))
        return solver(f, z0, tol=1e-6, max_steps=5000).stats.steps

    assert (20 * steps(anderson) < steps(picard)).all()
