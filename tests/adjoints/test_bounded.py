"""A backward solve that fails returns no more than what it started from explains."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.adjoints import implicit
from deqjax.solvers import anderson, broyden, gmres, newton_krylov, picard, reversible

MAPS, SIZE = 16, 64
SOLVERS = {
    "picard": picard,
    "anderson": anderson,
    "broyden": broyden,
    # by default it searches all 64 dimensions, and fails nowhere
    "newton_krylov": partial(newton_krylov, krylov=20),
    "gmres": partial(gmres, restart=20),
    "reversible": reversible,
}


def repelling_maps():
    """Gaussian matrices of radius 3, in whose middle the eigenvalue 1 lies."""
    rng = np.random.default_rng(0)
    matrices = 3 * rng.normal(size=(MAPS, SIZE, SIZE)) / np.sqrt(SIZE)
    return np.float32(matrices), np.float32(rng.normal(size=(MAPS, SIZE)))


@partial(jax.jit, static_argnames="solver")
def gradients(solver, steps, matrices, cotangent):
    def loss(offset, probe):
        value = dq.fixed_point(
            lambda z, b: jnp.einsum("bij,bj->bi", matrices, z) + b,
            jnp.zeros((MAPS, SIZE)),
            offset,
            solver=picard,  # the map is affine: where it is linearized does not matter
            adjoint=implicit(solver, max_steps=steps),
            max_steps=1,
            probe=probe,
        ).value
        return jnp.sum(cotangent * value)

    return jax.grad(loss, argnums=(0, 1))(jnp.zeros((MAPS, SIZE)), dq.backward_probe(MAPS))


@pytest.mark.parametrize("steps", [30, 100])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_failed_gradient_is_of_the_true_one_s_length(solver, steps):
    matrices, cotangent = repelling_maps()
    true = [
        np.linalg.solve(np.eye(SIZE) - matrix.T, v)
        for matrix, v in zip(matrices.astype(float), cotangent, strict=True)
    ]
    found, report = gradients(solver, steps, matrices, cotangent)
    ratios = np.linalg.norm(found, axis=1) / np.linalg.norm(true, axis=1)
    assert (report.residual > 1e-5).all()  # reported as ever
    assert np.median(ratios) <= 2
    assert ratios.max() <= 10


def runaway(z0, *, tol, max_steps):
    """A solver's signature around the state 1000 z0, of relative residual 0.5."""
    ones = jnp.ones(len(z0))
    stats = dq.Stats(ones.astype(int), 0.5 * ones, 2 * ones.astype(int), jnp.int32(1), None)
    return dq.Solution(1000 * z0, stats)


@pytest.mark.parametrize(
    ("on_failure", "acceptable", "length"),
    [("bound", 0.1, 2.0), ("keep", 0.1, 1000.0), ("bound", 0.5, 1000.0)],
)
def test_a_failed_state_is_shortened_to_what_it_explains(on_failure, acceptable, length):
    adjoint = implicit(
        lambda f, z0, **limits: runaway(z0, **limits), acceptable=acceptable, on_failure=on_failure
    )

    def loss(offset):
        options = {"solver": picard, "adjoint": adjoint, "max_steps": 1}
        return dq.fixed_point(lambda z, b: 0 * z + b, jnp.zeros((2, 3)), offset, **options).value

    offset = jnp.zeros((2, 3))
    pull = jax.vjp(loss, offset)[1]
    np.testing.assert_allclose(pull(jnp.ones((2, 3)))[0], length, rtol=1e-6)


def test_a_nearly_right_state_stays_as_it_is():
    # radius 0.99: w is a hundred times v, and thirty plain steps leave a residual of 3e-2
    def gradient(**policy):
        def loss(b):
            adjoint = implicit(picard, max_steps=30, **policy)
            return dq.fixed_point(
                lambda z, b: 0.99 * z + b, jnp.zeros((1, 1)), b, adjoint=adjoint
            ).value.sum()

        return jax.grad(loss)(1.0)

    np.testing.assert_array_equal(gradient(), gradient(on_failure="keep"))
    assert gradient() > 20
