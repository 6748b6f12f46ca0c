"""implicit(forward_mode=True): every derivative, against dense linear algebra in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.adjoints import implicit
from deqjax.solvers import anderson, broyden, gmres, newton_krylov, picard

pytestmark = pytest.mark.usefixtures("float64")

MATRIX = np.array([[0.3, -0.2, 0.1], [0.1, 0.4, -0.3], [0.2, 0.0, 0.25]])
OFFSET = np.array([[0.5, -1.0, 0.3], [1.0, 0.2, -0.4]])


def layer(z, scale, offset):
    return jnp.tanh(scale * z["a"] @ MATRIX.T + offset)


def cell(z, scale, offset):
    """A state of two leaves, the loss reads one."""
    return {"a": layer(z, scale, offset), "b": 0.5 * z["b"] + z["a"]}


def solved(scale, solver=anderson, linear=anderson, **policy):
    zeros = jnp.zeros((2, 3))
    return dq.fixed_point(
        cell,
        {"a": zeros, "b": zeros},
        scale,
        jnp.asarray(OFFSET),
        solver=solver,
        adjoint=implicit(linear, tol=1e-12, max_steps=60, forward_mode=True, **policy),
        tol=1e-13,
        max_steps=100,
    ).value["a"]


def loss(scale, **options):
    return jnp.sum(solved(scale, **options) ** 3)


def truth(scale):
    """The loss by Newton's method, written so that JAX differentiates every step."""
    z = jnp.zeros((2, 3))
    for _ in range(12):
        slope = 1 - layer({"a": z}, scale, OFFSET) ** 2
        system = jnp.eye(3)[None] - scale * slope[:, :, None] * MATRIX[None]
        residual = layer({"a": z}, scale, OFFSET) - z
        z = z + jnp.linalg.solve(system, residual[:, :, None])[:, :, 0]
    return jnp.sum(z**3)


DERIVATIVES = {
    "jvp": lambda f: lambda s: jax.jvp(f, (s,), (1.0,))[1],
    "jacfwd": jax.jacfwd,
    "grad": jax.grad,
    "hessian": jax.hessian,
    "jvp of grad": lambda f: lambda s: jax.jvp(jax.grad(f), (s,), (1.0,))[1],
    "grad of jvp": lambda f: jax.grad(lambda s: jax.jvp(f, (s,), (1.0,))[1]),
    "linearize": lambda f: lambda s: jax.linearize(f, s)[1](1.0),
    "vmap of jacfwd": lambda f: lambda s: jax.vmap(jax.jacfwd(f))(jnp.stack([s, s]))[1],
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_every_derivative_is_that_of_the_fixed_point(name):
    found, expected = (jax.jit(DERIVATIVES[name](f))(0.8) for f in (loss, truth))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("solver", "linear"),
    [(picard, picard), (broyden, broyden), (newton_krylov, gmres)],
    ids=lambda s: s.__name__,
)
def test_any_solver_serves(solver, linear):
    found = jax.jit(jax.jacfwd(partial(loss, solver=solver, linear=linear)))(0.8)
    np.testing.assert_allclose(found, jax.grad(truth)(0.8), rtol=1e-8)


def test_fixed_points_nest_where_f_is_linearized():
    # the inner one solves y = y / 2 + z / 4 + 1, so that z = y = z / 2 + 2
    def outer(z, scale):
        return dq.fixed_point(
            lambda y, z: 0.5 * y + 0.25 * z + scale,
            jnp.zeros_like(z),
            z,
            adjoint=implicit(tol=1e-12, forward_mode=True),
            tol=1e-13,
        ).value

    def solve(scale):
        return dq.fixed_point(
            outer,
            jnp.zeros((1, 2)),
            scale,
            solver=newton_krylov,
            adjoint=implicit(tol=1e-12),
            tol=1e-12,
        ).value.sum()

    value, slope = jax.jit(jax.value_and_grad(solve))(1.0)
    np.testing.assert_allclose([value, slope], [8, 8], rtol=1e-8)
    key, z = jax.random.key(0), jnp.ones((1, 2))
    for estimate in (dq.spectral_radius, dq.spectral_norm):
        np.testing.assert_allclose(estimate(outer, z, 1.0, key=key), 0.5, rtol=1e-8)
    penalty = jax.jit(partial(dq.jacobian_penalty, outer, key=key, distribution="rademacher"))
    np.testing.assert_allclose(penalty(z, 1.0), 0.25, rtol=1e-8)


def test_rows_of_a_trajectory_have_tangents():
    def rows(b):
        solution = dq.fixed_point(
            lambda z, b: 0.5 * z + b,
            jnp.zeros((1, 1)),
            b,
            solver=partial(picard, trajectory=(1, 3)),
            adjoint=implicit(tol=1e-12, forward_mode=True),
        )
        return solution.trajectory[:, 0, 0]

    np.testing.assert_allclose(jax.jacfwd(rows)(1.0), [2, 2])


@pytest.mark.parametrize(
    ("policy", "tangent"),
    [({}, 1.0), ({"fallback": "jacobian_free"}, 1.0), ({"on_failure": "nan"}, np.nan)],
)
def test_a_failed_tangent_follows_the_policy(policy, tangent):
    def solve(b):
        adjoint = implicit(picard, forward_mode=True, **policy)
        return dq.fixed_point(
            lambda z, b: 3 * z + b, jnp.zeros((1, 1)), b, solver=newton_krylov, adjoint=adjoint
        ).value[0, 0]

    np.testing.assert_allclose(jax.jvp(solve, (1.0,), (1.0,))[1], tangent)


def test_a_probe_is_refused():
    with pytest.raises(ValueError, match="no backward pass that could fill a probe"):
        dq.fixed_point(
            lambda z: 0.5 * z,
            jnp.zeros((2, 1)),
            adjoint=implicit(forward_mode=True),
            probe=dq.backward_probe(2),
        )
