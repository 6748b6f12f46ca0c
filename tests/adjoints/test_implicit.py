"""Implicit gradients against dense solves, against unrolling, and at every order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import deqjax as dq
from deqjax.adjoints import implicit, unrolled
from deqjax.solvers import anderson, picard
from problems import LINEAR, PROBLEMS, ravel

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")


def cotangent_for(problem, seed=5):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape), problem.solution)


def value_and_gradient(problem, adjoint, *, solver=picard, cotangent=None, max_steps=5000):
    """z*, and the gradients of <cotangent, z*> in the arguments of f."""
    cotangent = cotangent_for(problem) if cotangent is None else cotangent
    grads, value = gradient(problem.f, *problem.cast(float), cotangent, adjoint, solver, max_steps)
    return value, grads


@partial(jax.jit, static_argnames=("f", "adjoint", "solver", "max_steps"))
def gradient(f, z0, args, cotangent, adjoint, solver, max_steps):
    @partial(jax.grad, has_aux=True)
    def run(args):
        solution = dq.fixed_point(
            f, z0, *args, solver=solver, adjoint=adjoint, tol=1e-13, max_steps=max_steps
        )
        products = jax.tree.map(lambda c, z: jnp.sum(c * z), cotangent, solution.value)
        return sum(jax.tree.leaves(products)), solution.value

    return run(args)


EXACT = implicit(tol=1e-13, max_steps=200)


@pytest.mark.parametrize("problem", LINEAR.values(), ids=LINEAR)
def test_linear_maps_agree_with_the_dense_solve(problem):
    value, (matrix, offset) = value_and_gradient(problem, EXACT, solver=anderson)
    expected_matrix, expected_offset = problem.dense_gradient(cotangent_for(problem))
    np.testing.assert_allclose(ravel(value), ravel(problem.solution), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(matrix, expected_matrix, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ravel(offset), expected_offset, rtol=1e-10, atol=1e-10)


def test_picard_solves_the_backward_system_too():
    problem = PROBLEMS["radius 0.9"]
    adjoint = implicit(solver=picard, tol=1e-13, max_steps=2000)
    _, (matrix, offset) = value_and_gradient(problem, adjoint)
    expected_matrix, expected_offset = problem.dense_gradient(cotangent_for(problem))
    np.testing.assert_allclose(matrix, expected_matrix, rtol=1e-10)
    np.testing.assert_allclose(offset, expected_offset, rtol=1e-10)


@pytest.mark.parametrize("name", ["tanh", "1-d", "dict"])
def test_agrees_with_unrolling_to_convergence(name):
    problem = PROBLEMS[name]
    _, expected = value_and_gradient(problem, unrolled(), max_steps=300)
    _, found = value_and_gradient(problem, implicit(solver=picard, tol=1e-13, max_steps=300))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "solver", [picard, partial(anderson, history=2)], ids=["picard", "anderson"]
)
def test_second_derivatives_agree_with_finite_differences(solver):
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(float)

    @jax.jit
    def loss(*args):
        adjoint = implicit(solver, tol=1e-13, max_steps=200)
        solution = dq.fixed_point(
            problem.f, z0, *args, solver=solver, adjoint=adjoint, tol=1e-13, max_steps=200
        )
        return jnp.sum(jnp.sin(solution.value))

    check_grads(loss, args, order=2, modes=("rev",), atol=1e-5, rtol=1e-5)


def test_the_start_gets_no_gradient():
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(float)

    def loss(z0):
        return dq.fixed_point(problem.f, z0, *args, solver=picard).value.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(z0), 0)


def test_statistics_carry_no_gradient():
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(float)

    def residual(args):
        stats = dq.fixed_point(problem.f, z0, *args, solver=picard, max_steps=2).stats
        return stats.residual.sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(residual))(args)):
        np.testing.assert_array_equal(leaf, 0)


def test_no_backward_step_is_one_vector_jacobian_product():
    problem = PROBLEMS["tanh"]
    cotangent = cotangent_for(problem)
    adjoint = implicit(max_steps=0)
    value, found = value_and_gradient(problem, adjoint, cotangent=cotangent)
    _, args = problem.cast(float)
    _, pull = jax.vjp(lambda *args: problem.f(value, *args), *args)
    for a, b in zip(found, pull(jnp.asarray(cotangent)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-15)


def test_backward_limits_may_be_traced():
    problem = PROBLEMS["radius 0.9"]
    z0, args = problem.cast(float)

    @jax.jit
    def gradient(args, tol, max_steps):
        adjoint = implicit(solver=picard, tol=tol, max_steps=max_steps)

        def loss(args):
            return dq.fixed_point(problem.f, z0, *args, adjoint=adjoint).value.sum()

        return jax.grad(loss)(args)[1]

    _, expected = problem.dense_gradient(np.ones_like(problem.solution))
    errors = [
        np.abs(gradient(args, tol, steps) - expected).max()
        for tol, steps in ((1e-13, 1000), (1e-2, 1000), (1e-13, 3))
    ]
    assert errors[0] < 1e-9
    assert errors[1] > 1e-3
    assert errors[2] > 1e-3
    assert gradient._cache_size() == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tol": -1.0}, ValueError, "the backward tol must be zero or positive, got -1.0"),
        ({"max_steps": -1}, ValueError, "the backward max_steps must be at least 0, got -1"),
        ({"max_steps": 1.5}, TypeError, "the backward max_steps must be a whole number, got 1.5"),
    ],
)
def test_wrong_limits_are_refused_at_once(options, error, words):
    with pytest.raises(error, match=words):
        implicit(**options)
