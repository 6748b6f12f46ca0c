"""Implicit gradients whose backward system GMRES solves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import deqjax as dq
from deqjax import Status
from deqjax.adjoints import implicit, unrolled
from deqjax.solvers import anderson, gmres, newton_krylov, picard
from problems import LINEAR, PROBLEMS, ravel

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")


EXACT = implicit(gmres, tol=1e-12, max_steps=40)


def cotangent_for(problem, seed=5):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape), problem.solution)


@partial(jax.jit, static_argnames=("f", "adjoint", "solver", "max_steps"))
def gradient(f, z0, args, cotangent, adjoint, solver, max_steps):
    """Gradients of <cotangent, z*> in the arguments of f, and the backward report."""

    @partial(jax.grad, argnums=(0, 1))
    def run(args, probe):
        solution = dq.fixed_point(
            f,
            z0,
            *args,
            solver=solver,
            adjoint=adjoint,
            tol=1e-13,
            max_steps=max_steps,
            probe=probe,
        )
        products = jax.tree.map(lambda c, z: jnp.sum(c * z), cotangent, solution.value)
        return sum(jax.tree.leaves(products))

    return run(args, dq.backward_probe(len(jax.tree.leaves(z0)[0])))


def solve(problem, adjoint=EXACT, *, solver=anderson, cotangent=None, max_steps=200):
    cotangent = cotangent_for(problem) if cotangent is None else cotangent
    return gradient(problem.f, *problem.cast(float), cotangent, adjoint, solver, max_steps)


@pytest.mark.parametrize("problem", LINEAR.values(), ids=LINEAR)
def test_linear_maps_agree_with_the_dense_solve(problem):
    (matrix, offset), report = solve(problem)
    expected_matrix, expected_offset = problem.dense_gradient(cotangent_for(problem))
    np.testing.assert_allclose(matrix, expected_matrix, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ravel(offset), expected_offset, rtol=1e-9, atol=1e-9)
    assert (report.status == Status.CONVERGED).all()
    assert (report.steps <= len(problem.matrix)).all()


@pytest.mark.parametrize("name", ["tanh", "1-d"])
def test_agrees_with_unrolling_to_convergence(name):
    problem = PROBLEMS[name]
    expected, _ = solve(problem, unrolled(), solver=picard, max_steps=300)
    found, _ = solve(problem)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_second_derivatives_agree_with_finite_differences():
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(float)

    @jax.jit
    def loss(*args):
        solution = dq.fixed_point(
            problem.f,
            z0,
            *args,
            solver=picard,
            adjoint=implicit(partial(gmres, restart=6), tol=1e-13, max_steps=40),
            tol=1e-13,
            max_steps=200,
        )
        return jnp.sum(jnp.sin(solution.value))

    check_grads(loss, args, order=2, modes=("rev",), atol=1e-5, rtol=1e-5)


def test_newton_forward_and_gmres_backward_differentiate_a_repelling_fixed_point():
    problem = PROBLEMS["radius 1.5"]
    (matrix, offset), _ = solve(problem, solver=newton_krylov, max_steps=20)
    expected_matrix, expected_offset = problem.dense_gradient(cotangent_for(problem))
    np.testing.assert_allclose(matrix, expected_matrix, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(offset, expected_offset, rtol=1e-9, atol=1e-9)


def test_no_backward_step_is_one_vector_jacobian_product():
    problem = PROBLEMS["tanh"]
    found, report = solve(problem, implicit(gmres, max_steps=0))
    z0, args = problem.cast(float)
    run = jax.jit(lambda z: anderson(lambda z: problem.f(z, *args), z, tol=1e-13, max_steps=200))
    value = run(z0).value
    _, pull = jax.vjp(lambda *args: problem.f(value, *args), *args)
    for a, b in zip(found, pull(jnp.asarray(cotangent_for(problem))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)
    np.testing.assert_array_equal(report.steps, 0)


def test_a_batch_of_very_different_cotangents():
    problem = PROBLEMS["radius 0.9"]
    cotangent = cotangent_for(problem) * np.array([1e-30, 0, 1, 1e30])[:, None]
    (_, offset), report = solve(problem, cotangent=cotangent)
    _, expected = problem.dense_gradient(cotangent)
    np.testing.assert_allclose(offset, expected, rtol=1e-9)
    assert (report.status == Status.CONVERGED).all()
    np.testing.assert_array_equal(report.steps == 0, [False, True, False, False])


def test_a_broken_cotangent_shows_in_its_sample_alone():
    problem = PROBLEMS["radius 0.9"]
    cotangent = cotangent_for(problem)
    (_, healthy), _ = solve(problem, cotangent=cotangent)
    cotangent[2, 1] = np.nan
    (_, offset), report = solve(problem, cotangent=cotangent)
    np.testing.assert_array_equal(report.status == Status.DIVERGED, np.arange(4) == 2)
    np.testing.assert_array_equal(np.delete(offset, 2, 0), np.delete(healthy, 2, 0))


def test_unrolling_is_refused_in_one_sentence():
    problem = PROBLEMS["radius 0.9"]
    for solver in (gmres, newton_krylov):
        with pytest.raises(ValueError, match=r"cannot be unrolled .* use anderson or picard"):
            solve(problem, unrolled(), solver=solver)
