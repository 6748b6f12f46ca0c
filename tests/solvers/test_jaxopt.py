"""The adapter to JAXopt: the library's contract on solvers that know nothing of it."""

import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax import Status
from deqjax.adjoints import implicit
from deqjax.solvers import picard
from deqjax.solvers._jaxopt import jaxopt
from problems import PROBLEMS, ravel

METHODS = {
    "fixed_point": partial(jaxopt, method="fixed_point"),
    "anderson": partial(jaxopt, method="anderson", ridge=1e-10),
    "broyden": partial(jaxopt, method="broyden", history_size=8),
}
UNIT_STEP = partial(jaxopt, method="broyden", stepsize=1.0)
each_method = pytest.mark.parametrize("solver", METHODS.values(), ids=METHODS)


def solve(solver, problem, dtype=float, *, tol=1e-7, max_steps=200):
    z0, args = problem.cast(dtype)
    run = jax.jit(lambda z: solver(lambda z: problem.f(z, *args), z, tol=tol, max_steps=max_steps))
    return run(z0)


@pytest.mark.usefixtures("float64", "strict_promotion")
@pytest.mark.parametrize("name", ["tanh", "dict"])
@pytest.mark.parametrize(
    "solver", [*METHODS.values(), UNIT_STEP], ids=[*METHODS, "broyden, unit step"]
)
def test_finds_the_fixed_point_and_measures_it(solver, name):
    problem = PROBLEMS[name]
    solution = solve(solver, problem)
    np.testing.assert_array_equal(solution.stats.status, Status.CONVERGED)
    np.testing.assert_allclose(ravel(solution.value), ravel(problem.solution), atol=1e-5)
    z, fz = ravel(solution.value), ravel(problem.f(solution.value, *problem.cast(float)[1]))
    residual = np.linalg.norm(fz - z, axis=1) / np.linalg.norm(fz, axis=1)
    np.testing.assert_allclose(solution.stats.residual, residual, rtol=1e-4)
    assert (residual <= 1e-7).all()


@cache
def solve_tanh(solver):
    """Compiled for any number of steps."""
    z0, args = PROBLEMS["tanh"].cast(jnp.float32)
    f = lambda z: PROBLEMS["tanh"].f(z, *args)  # noqa: E731
    return jax.jit(lambda max_steps: solver(f, z0, tol=1e-4, max_steps=max_steps))


@pytest.mark.parametrize("max_steps", [1, 7, 200])
def test_its_fixed_point_iteration_is_ours(max_steps):
    found, expected = (solve_tanh(each)(max_steps) for each in (METHODS["fixed_point"], picard))
    np.testing.assert_array_equal(found.stats.status, expected.stats.status)
    np.testing.assert_array_equal(found.stats.steps, expected.stats.steps)
    assert found.stats.evaluations == expected.stats.evaluations
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)
    np.testing.assert_allclose(found.stats.residual, expected.stats.residual, rtol=1e-3)


@each_method
def test_counts_every_evaluation(solver):
    calls = []

    def f(z):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.cos(z)

    stats = jax.jit(lambda z: solver(f, z, tol=1e-4, max_steps=20))(jnp.zeros((2, 3))).stats
    jax.effects_barrier()
    assert len(calls) == stats.evaluations > stats.steps.max()


@each_method
def test_a_solved_start_is_kept(solver):
    start = jnp.full((2, 3), 2.0)
    solution = jax.jit(lambda z: solver(lambda z: 0.5 * z + 1, z, tol=1e-5, max_steps=9))(start)
    np.testing.assert_array_equal(solution.stats.steps, 0)
    np.testing.assert_array_equal(solution.stats.status, Status.CONVERGED)
    np.testing.assert_array_equal(solution.value, start)


@each_method
def test_a_map_without_fixed_point_takes_all_steps(solver):
    def f(z):
        return z + jnp.exp(-z)

    solution = jax.jit(lambda z: solver(f, z, tol=1e-6, max_steps=4))(jnp.ones((2, 3)))
    np.testing.assert_array_equal(solution.stats.status, Status.STEP_LIMIT)
    np.testing.assert_array_equal(solution.stats.steps, 4)
    assert jnp.isfinite(solution.value).all()


def test_each_sample_has_its_own_status_and_keeps_what_it_converged_to():
    slopes = jnp.array([[0.1], [0.99]])

    def run(max_steps):
        solver = METHODS["fixed_point"]
        return solver(lambda z: slopes * z + 1, jnp.zeros((2, 1)), tol=1e-3, max_steps=max_steps)

    short, long = run(4), run(30)
    np.testing.assert_array_equal(long.stats.status, [Status.CONVERGED, Status.STEP_LIMIT])
    np.testing.assert_array_equal(long.stats.steps, [3, 30])
    assert short.value[0] == long.value[0]


@each_method
def test_a_sample_that_is_not_finite_returns_its_best(solver):
    # the second sample leaves the numbers where the third one converges
    slopes, limit = jnp.array([[0.5], [4.0], [0.25]]), jnp.array([[9.0], [9.0], [9.0]])

    def f(z):
        return jnp.where(jnp.abs(z) < limit, slopes * z + 1, jnp.nan)

    solution = jax.jit(lambda z: solver(f, z, tol=1e-6, max_steps=60))(jnp.full((3, 1), 8.9))
    stats = solution.stats
    assert jnp.isfinite(solution.value).all()
    assert stats.status[1] == Status.DIVERGED
    residual = jnp.abs(f(solution.value) - solution.value) / jnp.abs(f(solution.value))
    np.testing.assert_allclose(stats.residual, residual[:, 0], rtol=1e-5)
    converged = stats.status == Status.CONVERGED
    np.testing.assert_array_equal(stats.residual <= 1e-6, converged)
    if solver is METHODS["fixed_point"]:  # the others share their weights
        np.testing.assert_array_equal(converged, [True, False, True])


def test_a_sample_that_comes_back_from_nan_stays_diverged():
    # the first sample goes 0, NaN, 2 and stays there, while the second one is under way
    def f(z):
        slopes = jnp.array([[0.5], [0.99]])
        forward = jnp.where(z == 0, jnp.nan, slopes * z + 1)
        return jnp.where(jnp.isnan(z), 2, forward)

    start = jnp.array([[0.0], [1.0]])
    solution = METHODS["fixed_point"](f, start, tol=1e-6, max_steps=9)
    np.testing.assert_array_equal(solution.stats.status, [Status.DIVERGED, Status.STEP_LIMIT])
    assert solution.value[0] == 0
    assert solution.stats.residual[0] == jnp.inf


@each_method
def test_a_map_that_is_never_finite_returns_the_start(solver):
    solution = solver(lambda z: z * jnp.nan, jnp.ones((2, 3)), tol=1e-3, max_steps=5)
    np.testing.assert_array_equal(solution.value, 1)
    np.testing.assert_array_equal(solution.stats.status, Status.DIVERGED)
    np.testing.assert_array_equal(solution.stats.residual, jnp.inf)


@each_method
def test_limits_may_be_traced(solver):
    @jax.jit
    def steps(tol, max_steps):
        f = lambda z: 0.5 * jnp.cos(z)  # noqa: E731
        return solver(f, jnp.zeros((1, 2)), tol=tol, max_steps=max_steps).stats.steps[0]

    assert steps(0.0, 3) == 3
    assert steps(0.0, 2) == 2
    assert 0 < steps(1e-3, 50) < 50
    assert steps._cache_size() == 1


@pytest.mark.usefixtures("float64")
@each_method
def test_gradients_are_implicit_and_exact(solver):
    problem = PROBLEMS["dict"]
    z0, args = problem.cast(float)
    cotangent = jax.tree.map(lambda x: np.random.default_rng(0).normal(size=x.shape), z0)

    @jax.jit
    @jax.grad
    def gradient(args):
        adjoint = implicit(solver, tol=1e-8, max_steps=400)
        value = dq.fixed_point(
            problem.f, z0, *args, solver=solver, adjoint=adjoint, tol=1e-8, max_steps=400
        ).value
        products = jax.tree.map(lambda c, z: jnp.sum(c * z), cotangent, value)
        return sum(jax.tree.leaves(products))

    matrix, offset = gradient(args)
    expected_matrix, expected_offset = problem.dense_gradient(cotangent)
    np.testing.assert_allclose(matrix, expected_matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ravel(offset), expected_offset, rtol=1e-5, atol=1e-5)


@each_method
def test_composes_with_vmap(solver):
    starts = jnp.linspace(-1, 1, 12).reshape(2, 2, 3)

    def run(z):
        return solver(jnp.cos, z, tol=1e-4, max_steps=50)

    together = jax.jit(jax.vmap(run))(starts)
    apart = [jax.jit(run)(z) for z in starts]
    np.testing.assert_allclose(together.value, [s.value for s in apart], rtol=1e-6)
    np.testing.assert_array_equal(together.stats.steps, [s.stats.steps for s in apart])


@pytest.mark.parametrize("method", ["fixed_point", "anderson"])
def test_runs_in_shard_map(method):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")

    def local(offset):
        z0 = jnp.zeros((len(offset), 2))
        f = lambda z: 0.3 * z + offset  # noqa: E731
        return jaxopt(f, z0, tol=1e-5, max_steps=40, method=method).value

    offset = jnp.arange(16.0).reshape(8, 2)
    run = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(run)(offset), offset / 0.7, rtol=1e-4)


@pytest.mark.usefixtures("float64", "strict_promotion")
@each_method
def test_f_sees_the_dtypes_of_the_start(solver):
    z0 = {"a": jnp.zeros((2, 3), jnp.bfloat16), "b": jnp.zeros((2, 2), jnp.float32)}

    def f(z):
        return jax.tree.map(lambda x: x * x.dtype.type(0.5) + x.dtype.type(1), z)

    solution = jax.jit(lambda z: solver(f, z, tol=1e-2, max_steps=30))(z0)
    assert jax.tree.map(lambda x: x.dtype, solution.value) == jax.tree.map(lambda x: x.dtype, z0)
    assert solution.stats.residual.dtype == jnp.float32
    np.testing.assert_array_equal(solution.stats.status, Status.CONVERGED)
    np.testing.assert_allclose(ravel(solution.value), 2, rtol=3e-2)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "newton"}, ValueError, "method must be one of anderson, .*, got 'newton'"),
        ({"history": 5}, TypeError, "no option 'history': JAXopt's own are beta, history_size"),
        ({"trace": 3}, TypeError, "no option 'trace'"),
        ({"differentiable": True}, TypeError, "no option 'differentiable'"),
        ({"implicit_diff": True}, TypeError, "no option 'implicit_diff'"),
        ({"method": "fixed_point", "beta": 1.0}, TypeError, "'fixed_point' has no option 'beta'"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1, got 0"),
    ],
)
def test_what_it_cannot_do_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        jaxopt(jnp.cos, jnp.zeros((1, 2)), **{"tol": 1e-3, "max_steps": 5, **options})


def test_says_so_if_jaxopt_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxopt", None)
    with pytest.raises(ImportError, match=r"needs jaxopt, .*: pip install 'deqjax\[jaxopt\]'\.$"):
        jaxopt(jnp.cos, jnp.zeros((1, 2)), tol=1e-3, max_steps=5)
