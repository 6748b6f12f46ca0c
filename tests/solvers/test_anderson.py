from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax import Status
from deqjax.solvers import anderson
from deqjax.solvers._anderson import _slots, _weights_in_matrices, _weights_in_vectors
from problems import PROBLEMS, ravel

pytestmark = pytest.mark.usefixtures("strict_promotion")


@partial(jax.jit, static_argnames=("f", "history"))
def solve(f, z0, tol=1e-6, max_steps=20, history=2, ridge=1e-5):
    return anderson(f, z0, tol=tol, max_steps=max_steps, history=history, ridge=ridge)


def reference(f, z0, steps, history, damping):
    """Walker & Ni's formulas for one sample, by numpy's lstsq on explicit differences."""
    iterates, residuals = [z0], [f(z0) - z0]
    for _ in range(steps):
        z, g = iterates[-1], residuals[-1]
        z_next = z + damping * g
        if len(iterates) > 1:
            dz = np.diff(iterates, axis=0)[-history:].T
            dg = np.diff(residuals, axis=0)[-history:].T
            z_next = z_next - (dz + damping * dg) @ np.linalg.lstsq(dg, g, rcond=None)[0]
        iterates.append(z_next)
        residuals.append(f(z_next) - z_next)
    return np.array(residuals)


@jax.jit
def weights_of_both_forms(products, right, number):
    """(2, batch, m): as an accelerator forms them, and as a CPU does."""
    slots, ridge = _slots(number, products.shape[1]), jnp.asarray(0.01, products.dtype)
    forms = (_weights_in_vectors, _weights_in_matrices)
    return jnp.stack(
        [jnp.stack(form(products, right, slots, number, ridge), axis=1) for form in forms]
    )


@pytest.mark.usefixtures("float64")
def test_vectors_and_matrices_give_the_same_weights_all_around_the_ring():
    history, features = 3, 5
    count = history + 1
    residuals = np.random.default_rng(0).normal(size=(3 * history + 1, 2, features))
    ring, products = np.zeros((2, count, features)), np.zeros((2, count, count))
    for number, residual in enumerate(residuals):
        newest = history - number % count
        ring[:, newest] = residual
        latest = residual - ring[:, (newest + 1) % count]
        products[:, newest] = np.einsum("bcf,bf->bc", ring, latest)
        right = np.einsum("bcf,bf->bc", ring, residual)
        in_vectors, in_matrices = weights_of_both_forms(products, right, jnp.int32(number))
        known = min(number, history)
        differences = np.diff(residuals[: number + 1], axis=0)[::-1][:known]
        expected = np.zeros((2, history))
        for i in range(2 if known else 0):
            columns = differences[:, i].T
            gram = columns.T @ columns
            gram += 0.01 * np.diag(np.diag(gram))
            expected[i, :known] = np.linalg.solve(gram, columns.T @ residual[i])
        np.testing.assert_allclose(in_vectors, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(in_matrices, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("damping", [1.0, 0.5])
@pytest.mark.parametrize("history", [1, 3])
def test_each_step_is_that_of_the_formulas(history, damping):
    problem = PROBLEMS["tanh"]
    z0, (matrix, offset) = problem.cast(float)
    solver = partial(anderson, history=history, ridge=0.0, damping=damping, stop="absolute")

    @jax.jit
    def solve(z0):
        return solver(lambda z: problem.f(z, matrix, offset), z0, tol=0.0, max_steps=6, trace=7)

    stats = solve(z0).stats
    for i, row in enumerate(offset):
        expected = reference(
            lambda z, row=row: np.tanh(matrix @ z + row), np.zeros(6), 6, history, damping
        )
        np.testing.assert_allclose(
            stats.trace[:, i], np.linalg.norm(expected, axis=1), rtol=1e-6, atol=1e-12
        )


@partial(jax.jit, static_argnames=("f", "history"))
def solve_linear(f, z0, args, history):
    return anderson(lambda z: f(z, *args), z0, tol=1e-8, max_steps=99, history=history, ridge=0.0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["radius 0.99", "non-normal", "radius 1.5", "dict"])
def test_a_full_history_solves_a_linear_map_in_its_dimension(name):
    problem = PROBLEMS[name]
    size = len(problem.matrix)
    solution = solve_linear(problem.f, *problem.cast(float), size)
    assert (solution.stats.steps <= size + 1).all()
    np.testing.assert_allclose(ravel(solution.value), ravel(problem.solution), rtol=1e-5)


def translation(z):
    """No fixed point, and every difference of residuals is zero."""
    return z + 1


def degenerate(z):
    """By sample: a constant, the identity, and a map whose steps are multiples of one vector."""
    line = 0.9 * z[2:].mean(axis=1, keepdims=True) * jnp.ones_like(z[2:]) + 1
    return jnp.concatenate([jnp.ones_like(z[:1]), z[1:2], line])


@pytest.mark.parametrize("ridge", [0.0, 1e-5])
@pytest.mark.parametrize("history", [2, 5])  # in 3 dimensions
def test_degenerate_histories_still_converge(history, ridge):
    solution = solve(degenerate, jnp.full((3, 3), 0.25), tol=1e-5, history=history, ridge=ridge)
    np.testing.assert_array_equal(solution.stats.status, Status.CONVERGED)
    expected = np.broadcast_to([[1.0], [0.25], [10.0]], (3, 3))
    np.testing.assert_allclose(solution.value, expected, rtol=1e-4)


@pytest.mark.parametrize("ridge", [0.0, 1e-5])
def test_a_map_without_fixed_point_stays_finite(ridge):
    solution = solve(translation, jnp.zeros((2, 3)), history=5, ridge=ridge)
    assert (solution.stats.status == Status.STEP_LIMIT).all()
    # its relative residual falls as it walks, but no iterate is nearer to its image than the start
    np.testing.assert_array_equal(solution.value, 0)


@pytest.mark.parametrize("ridge", [0.0, 1e-5])
def test_steps_past_the_fixed_point_stay_finite(ridge):
    # in 2 dimensions the history is rank-deficient once the map is solved to rounding
    matrix, offset = np.float32([[0.5, 0.2], [-0.3, 0.4]]), np.float32([[0.1, 0.2]])

    def f(z):
        return jnp.tanh(z @ matrix + offset)

    solution = solve(f, jnp.zeros((1, 2)), tol=0.0, max_steps=60, history=5, ridge=ridge)
    assert (solution.stats.status != Status.DIVERGED).all()
    assert solution.stats.residual[0] < 1e-6


@pytest.mark.usefixtures("float64")
def test_of_dependent_differences_the_newest_is_kept():
    # every difference is a multiple of one vector, so that two columns are one too many
    def f(z):
        return jnp.cos(z.mean(axis=1, keepdims=True)) * jnp.ones_like(z)

    trace = anderson(
        f, jnp.zeros((1, 3)), tol=0.0, max_steps=3, history=2, ridge=0.0, stop="absolute", trace=4
    ).stats.trace
    points = [0.0, 1.0]
    for _ in range(2):  # the secant method
        before, now = np.cos(points[-2:]) - points[-2:]
        points.append(points[-1] - now * (points[-1] - points[-2]) / (now - before))
    residuals = np.cos(points) - points
    np.testing.assert_allclose(trace[:, 0], np.sqrt(3) * np.abs(residuals), rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_the_ridge_damps_the_extrapolation():
    # One column: gamma shrinks by 1 / (1 + ridge), and in one dimension an infinite ridge
    # leaves the plain step. From z = 0 with f(z) = 0.5 z + 1: iterates 0, 1, then
    # 1.5 - 0.5 gamma with gamma = -1 / (1 + ridge).
    def value(ridge):
        solution = solve(lambda z: 0.5 * z + 1, jnp.zeros((1, 1)), 0.0, 2, 1, ridge)
        return float(solution.value[0, 0])

    for ridge in (0.0, 1.0, 1e9):
        assert value(ridge) == pytest.approx(1.5 + 0.5 / (1 + ridge), rel=1e-8)


def test_undamped_is_the_default_bit_for_bit():
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(jnp.float32)

    def value(**options):
        solver = partial(anderson, history=3, **options)
        f = partial(lambda args, z: problem.f(z, *args), args)
        return jax.jit(lambda z: solver(f, z, tol=0.0, max_steps=5).value)(z0)

    np.testing.assert_array_equal(value(), value(damping=1))


@pytest.mark.parametrize("exponent", [-83, 83])
def test_steps_do_not_depend_on_the_scale_of_z(exponent):
    # norms of 1e-25 and 1e25, whose squares float32 does not hold
    unit = jnp.float32(2.0**exponent)
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)) / 4, jnp.float32)

    def stats(unit):
        f = lambda z: jnp.tanh(z / unit @ matrix + 1) * unit  # noqa: E731
        return anderson(f, jnp.zeros((2, 6)), tol=1e-5, max_steps=40, trace=12).stats

    found, expected = stats(unit), stats(jnp.float32(1))
    assert (expected.status == Status.CONVERGED).all()
    np.testing.assert_array_equal(found.steps, expected.steps)
    np.testing.assert_allclose(found.trace, expected.trace, rtol=1e-2)


@pytest.mark.usefixtures("float64")
def test_the_default_ridge_is_that_of_the_dtype():
    matrix = np.random.default_rng(0).normal(size=(6, 6)) / 4

    def trace(dtype, **ridge):
        f = lambda z: jnp.tanh(z @ jnp.asarray(matrix, dtype) + 1)  # noqa: E731
        start = jnp.zeros((2, 6), dtype)
        return anderson(f, start, tol=0.0, max_steps=5, trace=6, **ridge).stats.trace

    np.testing.assert_array_equal(trace(jnp.float32), trace(jnp.float32, ridge=1e-5))
    np.testing.assert_array_equal(trace(float), trace(float, ridge=0.0))
