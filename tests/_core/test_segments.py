"""Batched graphs: each is solved as if it were alone."""

import functools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.adjoints import implicit, unrolled
from deqjax.solvers import anderson, broyden, newton_krylov, picard, reversible

pytestmark = pytest.mark.usefixtures("strict_promotion")

# two graphs of 4 rows, one of 5, one of none between them, in no order
IDS = np.array([1, 0, 3, 1, 1, 0, 3, 3, 3, 1, 3, 0, 0])
SCALE = {0: 0.2, 1: 0.5, 3: 0.9}  # graphs that contract less take more steps
COUNT = 4


def inputs(dtype=np.float64):
    """Edges within the graphs alone, and features of each node."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(len(IDS), len(IDS))) * (IDS[:, None] == IDS[None])
    for graph, scale in SCALE.items():
        own = np.ix_(graph == IDS, graph == IDS)
        matrix[own] *= scale / np.linalg.norm(matrix[own], 2)
    features = rng.normal(size=(len(IDS), 2))
    return jnp.asarray(matrix, dtype), jnp.asarray(features, dtype)


def layer(z, matrix, x):
    """A state of two leaves that feed each other."""
    return {"a": jnp.tanh(matrix @ z["b"] + x), "b": 0.8 * z["a"]}


def zeros(x):
    return {"a": jnp.zeros_like(x), "b": jnp.zeros_like(x)}


def solve(matrix, x, *, solver=anderson, tol=1e-13, max_steps=80, **form):
    adjoint = implicit(solver=picard, tol=1e-13, max_steps=300)
    if solver is newton_krylov:
        solver = partial(newton_krylov, krylov=12)
    options = {"solver": solver, "adjoint": adjoint, "tol": tol, "max_steps": max_steps}
    return dq.fixed_point(layer, zeros(x), matrix, x, **options, **form)


@functools.cache
def compiled(solver, form):
    """(matrix, x, tol, max_steps) -> solution, with IDS or of a graph alone."""
    options = {"coupled": True} if form == "alone" else {"segments": IDS}

    @jax.jit
    def run(matrix, x, tol, max_steps):
        return solve(matrix, x, solver=solver, tol=tol, max_steps=max_steps, **options)

    return run


def assert_equal_to_graphs_alone(solver, tol, max_steps):
    problem = inputs()
    limits = jnp.broadcast_to(tol, COUNT), jnp.broadcast_to(max_steps, COUNT)
    together = compiled(solver, "together")(*problem, *limits)
    assert_graphs(together, solver, problem, limits, 1e-12)
    return together.stats


def assert_graphs(together, solver, problem, limits, tolerance):
    matrix, x = problem
    for graph in (0, 1):  # of one shape: one program
        own = graph == IDS
        single = compiled(solver, "alone")(
            matrix[own][:, own], x[own], *(limit[graph] for limit in limits)
        )
        for name in ("a", "b"):
            np.testing.assert_allclose(
                together.value[name][own], single.value[name], rtol=0, atol=tolerance
            )
        assert together.stats.steps[graph] == single.stats.steps[0]
        assert together.stats.status[graph] == single.stats.status[0]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("solver", [picard, anderson, broyden, newton_krylov, reversible])
def test_each_graph_is_solved_as_if_alone(solver):
    limit = 12 if solver is reversible else 80
    stats = assert_equal_to_graphs_alone(solver, 1e-13, limit)
    assert solver is not picard or stats.steps[0] < stats.steps[1] < stats.steps[3]


@pytest.mark.usefixtures("float64")
def test_limits_and_tolerances_of_each_graph():
    tol, max_steps = np.array([1e-2, 1e-13, 1e-2, 1e-13]), np.array([50, 3, 50, 80])
    stats = assert_equal_to_graphs_alone(anderson, tol, max_steps)
    names = ["CONVERGED", "STEP_LIMIT", "CONVERGED", "CONVERGED"]
    assert dq.Status.names(stats.status).tolist() == names
    assert stats.steps[1] == 3


def gradients(whole_iteration, matrix, x, probe):
    """Of a loss on one leaf, in the edges and the features, and the report of the solve."""

    def loss(matrix, x, probe):
        if whole_iteration:
            steps = jax.lax.scan(lambda z, _: (layer(z, matrix, x), None), zeros(x), length=400)
            return jnp.sum(jnp.sin(steps[0]["a"]))
        return jnp.sum(jnp.sin(solve(matrix, x, probe=probe, segments=IDS).value["a"]))

    return jax.grad(loss, argnums=(0, 1, 2))(matrix, x, probe)


@pytest.mark.usefixtures("float64")
def test_gradients_are_those_of_the_whole_iteration():
    problem = (*inputs(), dq.backward_probe(COUNT))
    found_matrix, found_x, report = jax.jit(partial(gradients, False))(*problem)
    matrix, x, _ = jax.jit(partial(gradients, True))(*problem)
    # an edge between two graphs would make one of them: f is not differentiated there
    inside = IDS[:, None] == IDS[None]
    np.testing.assert_allclose(found_matrix[inside], matrix[inside], rtol=0, atol=1e-11)
    np.testing.assert_allclose(found_x, x, rtol=0, atol=1e-11)
    assert report.steps.shape == (COUNT,)
    assert report.steps[3] > report.steps[1] > report.steps[0]


def test_a_trajectory_shows_rows():
    matrix, x = inputs(np.float32)
    solver = partial(picard, trajectory=(1, 2))
    rows = solve(matrix, x, solver=solver, segments=IDS, tol=0.0, max_steps=3).trajectory
    first = layer(zeros(x), matrix, x)
    np.testing.assert_allclose(rows["a"][0], first["a"], rtol=1e-6)
    np.testing.assert_allclose(rows["b"][1], layer(first, matrix, x)["b"], rtol=1e-6)


@jax.jit
def with_ids_of_the_run(ids):
    """The solution, and the gradient of the rows that it has."""
    matrix, x = inputs(np.float32)
    segments = dq.Segments(ids, count=COUNT, longest=5)

    def loss(x):
        solution = solve(matrix, x, tol=1e-5, segments=segments)
        rows = solution.value["a"]
        return jnp.sum(jnp.where(jnp.isnan(rows), 0, rows)), solution

    gradient, solution = jax.grad(loss, has_aux=True)(x)
    return solution, gradient


def test_ids_of_the_run_serve_as_well_in_float32_too():
    found, gradient = with_ids_of_the_run(jnp.asarray(IDS))
    limits = jnp.full(COUNT, 1e-5), jnp.full(COUNT, 80)
    assert_graphs(found, anderson, inputs(np.float32), limits, 1e-6)
    assert np.isfinite(gradient).all()
    # and a graph without rows is there at once
    stats = found.stats
    assert (stats.steps[2], stats.residual[2], stats.status[2]) == (0, 0, dq.Status.CONVERGED)


def test_ids_may_be_batched():
    batch = jnp.stack([jnp.asarray(IDS), jnp.asarray(IDS[::-1].copy())])
    found, _ = jax.jit(jax.vmap(with_ids_of_the_run))(batch)
    first, _ = with_ids_of_the_run(batch[0])
    np.testing.assert_allclose(found.value["a"][0], first.value["a"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.stats.status, int(dq.Status.CONVERGED))


def test_a_graph_that_is_too_long_is_lost_aloud_and_alone():
    # graph 1 gets graph 0's rows as well: eight, and five fit
    ids = np.where(IDS == 0, 1, IDS)
    found, gradient = with_ids_of_the_run(jnp.asarray(ids))
    expected, _ = with_ids_of_the_run(jnp.asarray(IDS))
    assert found.stats.status[1] == dq.Status.DIVERGED
    for leaf in jax.tree.leaves(found.value):
        assert np.isnan(leaf[ids == 1]).all()
    np.testing.assert_allclose(
        found.value["a"][ids == 3], expected.value["a"][IDS == 3], rtol=0, atol=1e-6
    )
    assert found.stats.status[3] == dq.Status.CONVERGED
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("stray", [-1, 4])
def test_rows_of_no_graph_are_lost_aloud_and_alone(stray):
    ids = np.where(IDS == 0, stray, IDS)
    found, _ = with_ids_of_the_run(jnp.asarray(ids))
    expected, _ = with_ids_of_the_run(jnp.asarray(IDS))
    assert np.isnan(found.value["a"][IDS == 0]).all()
    kept = IDS != 0
    np.testing.assert_allclose(found.value["a"][kept], expected.value["a"][kept], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_ids_of_any_integer_type_under_x64(dtype):
    z = jnp.zeros(300, jnp.float32)
    ids = np.arange(300) // 150

    @jax.jit
    def run(ids):
        segments = dq.Segments(ids, count=2, longest=200)
        return dq.fixed_point(lambda z: 0.5 * z + 1, z, segments=segments, tol=1e-5).value

    np.testing.assert_allclose(run(jnp.asarray(ids, dtype)), 2, rtol=1e-4)


def test_unrolled_gradients_reach_the_start():
    def end(z0):
        solution = dq.fixed_point(
            lambda z: 0.5 * z,
            z0,
            segments=np.array([0, 1, 0]),
            solver=picard,
            adjoint=unrolled(),
            tol=0.0,
            max_steps=2,
        )
        return jnp.sum(solution.value)

    np.testing.assert_allclose(jax.grad(end)(jnp.ones(3)), 0.25)


@pytest.mark.parametrize(
    ("segments", "error", "words"),
    [
        (np.zeros(3, int), ValueError, "each of the 4 rows of z0, got an array of shape (3,)"),
        (np.zeros((4, 1), int), ValueError, "got an array of shape (4, 1)"),
        ([0.0, 0.0, 1.0, 1.0], TypeError, "segments must be whole numbers"),
        ([True, True, False, False], TypeError, "got an array of bool"),
        ([0, 0, -1, 1], ValueError, "segments must be at least 0, got -1"),
        (dq.Segments([0, 0, 1, 3], 2, 4), ValueError, "names graph 3, but count=2"),
        (dq.Segments([0, 1, 1, 1], 2, 2), ValueError, "graph 1 has 3 rows, more than longest=2"),
    ],
    ids=["length", "axes", "floats", "bools", "negative", "count", "longest"],
)
def test_segments_that_do_not_fit_are_refused(segments, error, words):
    with pytest.raises(error, match=re.escape(words)):
        dq.fixed_point(lambda z: 0.5 * z, jnp.zeros((4, 2)), segments=segments)


def test_ids_of_the_run_need_sizes():
    @jax.jit
    def run(ids):
        return dq.fixed_point(lambda z: 0.5 * z, jnp.zeros((4, 2)), segments=ids).value

    with pytest.raises(TypeError, match=re.escape("give deqjax.Segments(rows, count=...")):
        run(jnp.zeros(4, int))


@pytest.mark.parametrize(("count", "longest"), [(0, 3), (2, 1.5), (True, 3)])
def test_sizes_are_python_ints(count, longest):
    with pytest.raises(ValueError, match=r"must be a Python int >= 1"):
        dq.Segments(np.zeros(4, int), count, longest)


def test_a_layer_that_loses_rows_is_refused():
    with pytest.raises(ValueError, match=re.escape("shape of z from (4, 2) to (3, 2)")):
        dq.fixed_point(lambda z: z[:3], jnp.zeros((4, 2)), segments=[0, 0, 1, 1])
