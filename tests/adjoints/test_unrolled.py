from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.adjoints import unrolled
from deqjax.solvers import anderson, picard
from problems import PROBLEMS, ravel

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.mark.usefixtures("float64")
def test_differentiates_the_finite_iteration():
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(float)

    def solved(z0, args):
        solution = dq.fixed_point(
            problem.f, z0, *args, solver=picard, adjoint=unrolled(), tol=0.0, max_steps=3
        )
        return jnp.sum(jnp.sin(solution.value))

    def by_hand(z, args):
        for _ in range(3):
            z = problem.f(z, *args)
        return jnp.sum(jnp.sin(z))

    found = jax.jit(jax.grad(solved, argnums=(0, 1)))(z0, args)
    expected = jax.jit(jax.grad(by_hand, argnums=(0, 1)))(z0, args)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("float64")
def test_through_anderson_it_reaches_the_dense_gradient():
    problem = PROBLEMS["radius 0.9"]
    z0, args = problem.cast(float)
    solver = partial(anderson, history=3)

    @jax.jit
    @jax.grad
    def gradient(args):
        solution = dq.fixed_point(
            problem.f, z0, *args, solver=solver, adjoint=unrolled(), tol=1e-13, max_steps=60
        )
        return solution.value.sum()

    matrix, offset = gradient(args)
    expected_matrix, expected_offset = problem.dense_gradient(np.ones_like(problem.solution))
    np.testing.assert_allclose(matrix, expected_matrix, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ravel(offset), expected_offset, rtol=1e-8, atol=1e-8)


@partial(jax.jit, static_argnames="solver")
def scaled_gradient(offset, scale, solver):
    def loss(offset):
        solution = dq.fixed_point(
            lambda z, b: 0.5 * z + b,
            jnp.zeros((2, 3)),
            offset,
            solver=solver,
            adjoint=unrolled(),
            tol=1e-6,
            max_steps=40,
        )
        return solution.value.sum() / scale

    return jax.grad(loss)(offset)


@pytest.mark.parametrize(
    "solver", [picard, partial(anderson, history=2)], ids=["picard", "anderson"]
)
@pytest.mark.parametrize("scale", [1.0, 1e-8])
def test_passes_after_convergence_leave_the_gradient_finite(solver, scale):
    # the differences of a frozen sample are exact zeros, whose norms have infinite slope
    gradient = scaled_gradient(jnp.full((2, 3), scale, jnp.float32), scale, solver)
    np.testing.assert_allclose(gradient * scale, 2, rtol=1e-4)


def test_a_stopped_sample_does_not_run_away_from_its_gradient():
    # squaring leaves the repelling fixed point 1 and overflows, if a stopped sample went on
    def loss(gain):
        solution = dq.fixed_point(
            lambda z: gain * z**2,
            jnp.full((1, 1), 1.0001),
            solver=picard,
            adjoint=unrolled(),
            tol=1e-3,
            max_steps=40,
        )
        return solution.value.sum()

    assert jax.jit(jax.grad(loss))(jnp.float32(1)) == 0


def test_a_run_time_max_steps_is_refused():
    def value(max_steps):
        return dq.fixed_point(
            lambda z: 0.5 * z, jnp.ones((2, 3)), adjoint=unrolled(), max_steps=max_steps
        ).value

    with pytest.raises(TypeError, match="max_steps as a Python int"):
        jax.jit(value)(5)
