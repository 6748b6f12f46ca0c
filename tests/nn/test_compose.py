"""The core without NNX: Flax Linen modules and plain functions, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nn_cells import WIDTH, injection, unroll, weights

import deqjax as dq
from deqjax.solvers import picard

pytestmark = pytest.mark.usefixtures("float64")


def linen_problem():
    """f, parameters of a Flax Linen layer; the parameters go in through args."""
    from flax import linen

    dense = linen.Dense(
        WIDTH, kernel_init=linen.initializers.orthogonal(0.5), param_dtype=jnp.float64
    )
    return lambda z, p, u: jnp.tanh(dense.apply(p, z) + u), dense.init(
        jax.random.key(0), injection()
    )


def plain_problem():
    matrix = 0.5 * jnp.linalg.qr(jax.random.normal(jax.random.key(0), (WIDTH, WIDTH)))[0]
    return lambda z, p, u: jnp.tanh(z @ p + u), matrix


@pytest.fixture(params=[linen_problem, plain_problem], ids=["linen", "plain"])
def problem(request):
    return request.param()


def solve(f, u, *args):
    adjoint = dq.adjoints.implicit(picard, tol=1e-13, max_steps=100)
    return dq.fixed_point(
        f, jnp.zeros_like(u), *args, solver=picard, adjoint=adjoint, tol=1e-13, max_steps=100
    ).value


def test_value(problem):
    f, parameters = problem
    u = injection()
    value = solve(f, u, parameters, u)
    np.testing.assert_allclose(value, f(value, parameters, u), rtol=0, atol=1e-12)


def expected_gradients(f, parameters, u):
    def loss(parameters, u):
        return jnp.sum(weights() * unroll(lambda z, u: f(z, parameters, u), u))

    return jax.grad(loss, argnums=(0, 1))(parameters, u)


def assert_same(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-11), actual, expected
    )


def test_gradients_through_args(problem):
    f, parameters = problem
    u = injection()
    gradients = jax.grad(lambda p, u: jnp.sum(weights() * solve(f, u, p, u)), argnums=(0, 1))(
        parameters, u
    )
    assert_same(gradients, expected_gradients(f, parameters, u))


def test_gradients_through_a_closure(problem):
    f, parameters = problem
    u = injection()
    gradients = jax.grad(
        lambda p, u: jnp.sum(weights() * solve(lambda z: f(z, p, u), u)), argnums=(0, 1)
    )(parameters, u)
    assert_same(gradients, expected_gradients(f, parameters, u))
