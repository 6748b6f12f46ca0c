"""What stops a sample and which iterate is best, at any scale, and limits of each sample's own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax._core import algebra
from deqjax._core.residual import measure
from deqjax.solvers import Status, anderson, broyden, gmres, newton_krylov, picard, reversible

SOLVERS = pytest.mark.parametrize(
    "solver",
    [picard, anderson, broyden, newton_krylov, reversible, gmres],
    ids=lambda s: s.__name__,
)


def test_on_the_way_to_zero_the_last_iterate_is_the_best():
    # the relative residual is 1 at every iterate
    solution = picard(lambda z: 0.5 * z, jnp.ones((1, 3)), tol=1e-3, max_steps=60)
    np.testing.assert_array_equal(solution.value, np.float32(0.5) ** 60)
    assert solution.stats.status[0] == Status.STEP_LIMIT
    assert solution.stats.residual[0] == 1


def test_of_a_runaway_the_start_is_the_best():
    # the relative residual falls from 1 to 2 / 3
    solution = picard(lambda z: 3 * z - 4, jnp.zeros((1, 3)), tol=1e-3, max_steps=60)
    np.testing.assert_array_equal(solution.value, 0)
    assert solution.stats.residual[0] == 1


@pytest.mark.parametrize("exponent", [-30, -18, 0, 18, 30])
def test_norms_hold_over_the_range_of_float32(exponent):
    rng = np.random.default_rng(0)
    state = {"large": rng.normal(size=(4, 5)), "small": 1e-6 * rng.normal(size=(4, 2, 3))}
    state = jax.tree.map(lambda x: x * 10.0**exponent, state)
    flat = np.concatenate([leaf.reshape(4, -1) for leaf in state.values()], axis=1)
    found = algebra.norm(jax.tree.map(jnp.float32, state))
    np.testing.assert_allclose(found, np.linalg.norm(flat, axis=1), rtol=1e-6)


def test_the_norm_of_what_is_not_finite_is_not():
    state = jnp.array([[jnp.nan, 1.0], [jnp.inf, 1.0], [3e38, 3e38], [0.0, 0.0]])
    np.testing.assert_array_equal(algebra.norm(state), [np.nan, np.inf, np.inf, 0])


@SOLVERS
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_no_scale_is_falsely_still(solver, scale):
    scale = jnp.float32(scale)

    def f(z):
        return jnp.float32(0.5) * z + scale * jnp.array([[1.0, -2.0]])

    solution = solver(f, jnp.zeros((2, 2)), tol=1e-5, max_steps=60)
    assert (solution.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(solution.value / scale, [[2, -4], [2, -4]], rtol=1e-4)


def test_a_small_leaf_cannot_hide_behind_a_large_one():
    z = {"large": jnp.full((1, 2), 1e6), "small": jnp.ones((1, 2))}
    image = {"large": z["large"], "small": 2 * z["small"]}
    together, each = (measure(z, image, norm=norm).residual[0] for norm in ("state", "leaf"))
    np.testing.assert_allclose(together, 1e-6, rtol=1e-5)
    np.testing.assert_allclose(each, 0.5)
    np.testing.assert_allclose(
        measure(z, image, "absolute", "leaf").residual[0], np.sqrt(2), rtol=1e-6
    )


@SOLVERS
def test_by_leaf_every_leaf_reaches_the_tolerance(solver):
    def f(z):
        return {"large": 0.1 * z["large"] + 1e6, "small": 0.9 * z["small"] + 1}

    z0 = {"large": jnp.zeros((2, 2)), "small": jnp.zeros((2, 3))}
    solution = solver(f, z0, tol=1e-3, max_steps=100, norm="leaf")
    assert (solution.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(solution.value["small"], 10, rtol=2e-2)


def layer(z):
    return jnp.tanh(z @ jnp.array([[0.9, 0.3], [-0.3, 0.8]], z.dtype)) + jnp.array([[1.0, -0.5]])


@SOLVERS
def test_limits_of_each_sample_are_those_of_separate_solves(solver):
    z0 = jnp.array([[0.0, 0.0], [2.0, -3.0], [0.5, 0.1]])
    tol, max_steps = jnp.array([1e-2, 1e-6, 0.0]), jnp.array([40, 40, 3])
    solve = jax.jit(partial(solver, layer))
    together = solve(z0, tol=tol, max_steps=max_steps)
    for i in range(3):
        # with the same batch mates, and of the same shape: another program may round differently
        alone = solve(z0, tol=jnp.full(3, tol[i]), max_steps=jnp.full(3, max_steps[i]))
        np.testing.assert_array_equal(together.value[i], alone.value[i])
        for name in ("steps", "residual", "status"):
            one, other = getattr(together.stats, name), getattr(alone.stats, name)
            assert one[i] == other[i], name


def test_least_steps_are_taken_and_the_best_of_them_is_returned():
    start = jnp.array([[2.0], [0.0]])  # the first sample is at its fixed point
    few = picard(lambda z: 0.5 * z + 1, start, tol=0.3, max_steps=20)
    more = picard(lambda z: 0.5 * z + 1, start, tol=0.3, max_steps=20, min_steps=6)
    np.testing.assert_array_equal(few.stats.steps, [0, 2])
    np.testing.assert_array_equal(more.stats.steps, [6, 6])
    np.testing.assert_array_equal(more.stats.status, Status.CONVERGED)
    np.testing.assert_array_equal(more.value[:, 0], [2, 2 - 2 / 64])


def test_a_good_iterate_among_the_least_steps_is_converged():
    # 1, 2.5, 4.75 and on: only the start is within the tolerance
    solution = picard(lambda z: 1.5 * z + 1, jnp.ones((1, 1)), tol=0.6, max_steps=4, min_steps=9)
    assert solution.value[0, 0] == 1
    assert solution.stats.residual[0] == np.float32(0.6)
    assert solution.stats.status[0] == Status.CONVERGED
