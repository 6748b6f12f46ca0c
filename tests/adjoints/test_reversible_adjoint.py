"""Reversible gradients against reverse mode through the coupled iteration itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import deqjax as dq
from deqjax import Status
from deqjax.adjoints import unrolled
from deqjax.adjoints._reversible import reversible
from deqjax.solvers import anderson, picard
from deqjax.solvers._reversible import reversible as coupled
from problems import PROBLEMS

pytestmark = pytest.mark.usefixtures("strict_promotion")
DAMPING = 0.6
solver = partial(coupled, damping=DAMPING)


def by_hand(f, z0, args, steps):
    """z of each sample after its own number of steps, in plain Python."""
    z = y = z0
    for number in range(max(steps)):
        goes_on = np.asarray(steps) > number

        def mix(old, new, goes_on=goes_on):
            mask = goes_on.reshape(-1, *(1,) * (old.ndim - 1))
            return jnp.where(mask, (1 - DAMPING) * old + DAMPING * new, old)

        y = jax.tree.map(mix, y, f(z, *args))
        z = jax.tree.map(mix, z, f(y, *args))
    return z


def weighted(states):
    """A loss with a slope of its own at every number."""
    leaves = jax.tree.leaves(states)
    slopes = [jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)) for leaf in leaves]
    return sum(
        jnp.sum(s.reshape(leaf.shape) * jnp.sin(leaf))
        for s, leaf in zip(slopes, leaves, strict=True)
    )


def gradient(f, z0, args, *, adjoint, tol=0.0, max_steps=8, solver=solver):
    """Gradients of the loss in z0 and args, the report and the solution."""
    probe = dq.backward_probe(len(jax.tree.leaves(z0)[0]))

    @jax.jit
    @partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def run(z0, args, probe):
        solution = dq.fixed_point(
            f, z0, *args, solver=solver, adjoint=adjoint, tol=tol, max_steps=max_steps, probe=probe
        )
        return weighted((solution.value, solution.trajectory)), solution

    (in_z0, in_args, report), solution = run(z0, args, probe)
    return (in_z0, in_args), report, solution


def assert_close(found, expected, rtol=1e-8):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "tol"), [("radius 0.5", 0.1), ("tanh", 0.05), ("dict", 0.1), ("1-d", 1e-2)]
)
def test_agrees_with_the_coupled_loop(name, tol):
    problem = PROBLEMS[name]
    _, args = problem.cast(float)
    # not zero, so that the start has an influence of its own
    z0 = jax.tree.map(lambda x: jnp.asarray(x) * 0.5 + 0.1, problem.solution)
    found, report, solution = gradient(problem.f, z0, args, adjoint=reversible(), tol=tol)
    steps = np.asarray(solution.stats.steps)
    assert len(np.unique(steps)) > 1, "the samples are to stop at different steps"
    np.testing.assert_array_equal(report.steps, steps)

    @partial(jax.grad, argnums=(0, 1))
    def loop(z0, args):
        return weighted(by_hand(problem.f, z0, args, steps))

    assert_close(found, jax.jit(loop)(z0, args))
    unrolled_gradient, _, _ = gradient(problem.f, z0, args, adjoint=unrolled(), tol=tol)
    assert_close(found, unrolled_gradient)


@pytest.mark.usefixtures("float64")
def test_closures_get_their_gradient():
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(float)

    def loss(args, closed_over):
        f, given = problem.f, args
        if closed_over:
            f, given = (lambda z: problem.f(z, *args)), ()
        solution = dq.fixed_point(
            f, z0, *given, solver=solver, adjoint=reversible(), tol=0.0, max_steps=5
        )
        return weighted(solution.value)

    run = jax.jit(jax.grad(loss), static_argnames="closed_over")
    assert_close(run(args, closed_over=True), run(args, closed_over=False), rtol=1e-14)


def test_integers_and_keys_pass_through():
    key, index = jax.random.key(7), jnp.array([3, 1, 2, 0])

    def f(z, weight, key, index):
        mask = jax.random.bernoulli(key, 0.5, z.shape).astype(z.dtype)
        return weight * mask * z + jnp.take(jnp.arange(4.0), index)[:, None]

    def loss(weight, key, index):
        return dq.fixed_point(
            lambda z: f(z, weight, key, index),
            jnp.zeros((4, 3)),
            solver=solver,
            adjoint=reversible(),
            tol=0.0,
            max_steps=6,
        ).value.sum()

    found = jax.jit(jax.grad(loss))(jnp.float32(0.5), key, index)

    # the slope of the same recursion in the weight, for mask 1: z is a multiple of the offset
    @jax.jit
    @jax.grad
    def slope(weight):
        return by_hand(lambda z: weight * z + 1, jnp.zeros((1, 1)), (), [6])[0, 0]

    expected = slope(jnp.float32(0.5))
    mask = np.asarray(jax.random.bernoulli(key, 0.5, (4, 3)))
    total = (mask * np.array([3, 1, 2, 0])[:, None]).sum()
    np.testing.assert_allclose(found, float(expected) * total, rtol=1e-5)


ROWS = (1, 3, 8)


@pytest.mark.usefixtures("float64")
def test_each_row_of_a_trajectory_differentiates_exactly():
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(float)
    options = {"tol": 0.05, "solver": partial(solver, trajectory=ROWS)}
    found, _, solution = gradient(problem.f, z0, args, adjoint=reversible(), **options)
    assert (solution.stats.steps < max(ROWS)).any(), "a row is to lie after the end"
    expected, _, _ = gradient(problem.f, z0, args, adjoint=unrolled(), **options)
    assert_close(found, expected)


@pytest.mark.usefixtures("float64")
def test_rows_after_the_best_iterate_differentiate_exactly():
    def f(z, gain):
        return 3 - gain * z

    z0, args = jnp.array([[0.7], [0.8]]), (jnp.array(3.0),)
    options = {"solver": partial(solver, trajectory=(1, 4)), "max_steps": 4}
    found, report, solution = gradient(f, z0, args, adjoint=reversible(), **options)
    np.testing.assert_array_equal(solution.value, z0)
    np.testing.assert_array_equal(report.steps, 4)
    expected, _, _ = gradient(f, z0, args, adjoint=unrolled(), **options)
    assert_close(found, expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rows", [(), (2, 6)], ids=["value", "trajectory"])
def test_samples_that_overflow_leave_the_shared_gradient_exact(rows):
    # the first is best right before it overflows, on its way to 16, the second at its start
    slope, offset = jnp.array([[0.5], [-3.0], [0.5]]), jnp.array([[8.0], [3.0], [3.0]])

    def f(z, gain):
        return jnp.where(jnp.abs(z) > 10, jnp.inf, gain * slope * z + offset)

    z0, args = jnp.array([[1.0], [0.7], [1.0]]), (jnp.array(1.0),)
    found, report, solution = gradient(
        f, z0, args, adjoint=reversible(), solver=partial(solver, trajectory=rows)
    )
    np.testing.assert_array_equal(
        solution.stats.status, [Status.DIVERGED, Status.DIVERGED, Status.STEP_LIMIT]
    )
    assert (report.status == Status.CONVERGED).all()
    np.testing.assert_array_equal(solution.value[1], z0[1])
    good = np.asarray(solution.stats.steps) - 1
    best = (int(good[0]), 0)
    assert 2 <= good[1] < 6
    shown = [(*best, 8), *((min(row, best[0]), row if row <= good[1] else 0, row) for row in rows)]

    @partial(jax.grad, argnums=(0, 1))
    def loop(z0, args):
        value, *others = (by_hand(f, z0, args, steps) for steps in shown)
        return weighted((value, jnp.stack(others) if others else None))

    assert_close(found, jax.jit(loop)(z0, args))


def test_a_sample_without_a_step_returns_its_cotangent():
    # f has neither a value nor a slope at the first start
    z0 = jnp.array([[-1.0], [1.0]])
    (in_z0, _), report, solution = gradient(
        lambda z: 0.5 * jnp.sqrt(z), z0, (), adjoint=reversible(), max_steps=4
    )
    np.testing.assert_array_equal(solution.stats.status, [Status.DIVERGED, Status.STEP_LIMIT])
    np.testing.assert_allclose(in_z0[0], np.cos(-1.0), rtol=1e-6)
    assert np.isfinite(in_z0[1])
    np.testing.assert_array_equal(report.steps, [0, 4])


@pytest.mark.usefixtures("float64")
def test_a_sample_gets_the_gradient_that_it_gets_alone():
    problem = PROBLEMS["tanh"]
    z0, (matrix, offset) = problem.cast(float)
    run = partial(gradient, problem.f, adjoint=reversible(), tol=0.05)
    (_, (in_matrix, in_offset)), report, _ = run(z0, (matrix, offset))
    total = 0

    @jax.jit
    @partial(jax.grad, argnums=(0, 1), has_aux=True)
    def alone(matrix, offset, start, index):
        solution = dq.fixed_point(
            problem.f,
            start,
            matrix,
            offset,
            solver=solver,
            adjoint=reversible(),
            tol=0.05,
            max_steps=8,
        )
        padded = jnp.zeros_like(z0).at[index].set(solution.value[0])
        return weighted((padded, None)), solution.stats.steps

    for i in range(len(z0)):
        row = slice(i, i + 1)
        (matrix_alone, offset_alone), steps = alone(matrix, offset[row], z0[row], i)
        assert int(steps[0]) == int(report.steps[i])
        np.testing.assert_allclose(in_offset[i], offset_alone[0], rtol=1e-9)
        total += matrix_alone
    np.testing.assert_allclose(in_matrix, total, rtol=1e-9)


def report_of(name, dtype, **options):
    problem = PROBLEMS[name]
    z0, args = problem.cast(dtype)
    found, report, _ = gradient(problem.f, z0, args, adjoint=reversible(), **options)
    return found, report


@pytest.mark.usefixtures("float64")
def test_few_steps_in_float64_lose_nothing():
    _, report = report_of("radius 0.9", float, max_steps=4)
    assert (report.status == Status.CONVERGED).all()
    assert (report.residual <= 1e-12).all()
    assert (report.residual > 0).all()


def test_many_steps_in_float32_report_that_precision_is_lost():
    _, report = report_of("radius 0.9", jnp.float32, max_steps=60, solver=coupled)
    assert (report.status == Status.PRECISION_LOST).all()
    assert (report.residual > 1).all()


def test_what_counts_as_lost_is_set_by_tol():
    problem = PROBLEMS["radius 0.9"]
    z0, args = problem.cast(jnp.float32)

    @jax.jit
    def status(tol):
        _, report, _ = gradient(problem.f, z0, args, adjoint=reversible(tol))
        return report.status

    assert (status(1.0) == Status.CONVERGED).all()
    assert (status(1e-9) == Status.PRECISION_LOST).all()


@pytest.mark.usefixtures("float64")
def test_the_report_bounds_the_error_of_the_gradient():
    exact, _ = report_of("tanh", float)
    rough, report = report_of("tanh", jnp.float32)
    exact, rough = (np.asarray(in_args[0], float) for _, in_args in (exact, rough))
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 0 < error < float(report.residual.max()) < 1e-2


def test_a_broken_cotangent_shows_in_its_sample_alone():
    problem = PROBLEMS["tanh"]
    z0, (matrix, offset) = problem.cast(jnp.float32)

    @jax.jit
    @partial(jax.grad, argnums=(1, 2))
    def run(weights, offset, probe):
        solution = dq.fixed_point(
            lambda z, b: problem.f(z, matrix, b),
            z0,
            offset,
            solver=solver,
            adjoint=reversible(),
            max_steps=5,
            probe=probe,
        )
        return jnp.sum(weights[:, None] * solution.value)

    weights = jnp.ones((4,))
    in_offset, report = run(weights.at[2].set(jnp.nan), offset, dq.backward_probe(4))
    healthy, healthy_report = run(weights, offset, dq.backward_probe(4))
    assert report.status[2] == Status.DIVERGED
    assert np.isinf(report.residual[2])
    for new, old in zip((in_offset, *report), (healthy, *healthy_report), strict=True):
        np.testing.assert_array_equal(np.delete(new, 2, axis=0), np.delete(old, 2, axis=0))


def test_a_bfloat16_problem_gets_bfloat16_gradients():
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(jnp.bfloat16)
    found, report, _ = gradient(problem.f, z0, args, adjoint=reversible())
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(found))
    assert (report.status == Status.CONVERGED).all()
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), (z0, args))
    expected, _, _ = gradient(problem.f, *exact, adjoint=reversible())
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0, atol=0.03 * np.abs(b).max())


def test_small_steps_add_up_in_bfloat16():
    # 40 terms of about 0.01, of which a sum in bfloat16 would lose a good part
    def loss(offset):
        solution = dq.fixed_point(
            lambda z: 0 * z + offset.astype(jnp.float32),
            jnp.zeros((1, 1)),
            solver=partial(coupled, damping=0.01),
            adjoint=reversible(),
            max_steps=40,
        )
        return solution.value.sum()

    found = jax.jit(jax.grad(loss))(jnp.bfloat16(1))
    np.testing.assert_allclose(found.astype(jnp.float32), 1 - 0.99**40, rtol=5e-3)


def temporary_bytes(max_steps, rows=()):
    """Peak temporary memory of the compiled gradient, as XLA plans it."""

    def loss(weight, offset):
        solution = dq.fixed_point(
            lambda z, w, b: jnp.tanh(z @ w + b),
            jnp.zeros_like(offset),
            weight,
            offset,
            solver=partial(solver, trajectory=rows),
            adjoint=reversible(),
            max_steps=max_steps,
        )
        return jnp.sum(solution.value**2)

    shapes = jax.ShapeDtypeStruct((32, 32), jnp.float32), jax.ShapeDtypeStruct((8, 32), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("rows", [(), (5,)], ids=["value", "trajectory"])
def test_memory_does_not_grow_with_the_steps(rows):
    assert temporary_bytes(10, rows) == temporary_bytes(200, rows) > 0


def layer_loss(weight, offset, axis_name=None):
    """The weight is shared, and each sample stops at a step of its own."""
    spread = jnp.mean(weight)
    if axis_name is not None:  # a collective in the layer, which keeps replicas in step
        spread = jax.lax.pmean(spread, axis_name)

    def f(z, weight, offset):
        z = z if axis_name is None else z + 0 * jax.lax.psum(jnp.sum(z), axis_name)
        return jnp.tanh(z @ weight + offset) + spread

    options = {} if axis_name is None else {"axis_name": axis_name}
    solution = dq.fixed_point(
        f,
        jnp.zeros_like(offset),
        weight,
        offset,
        solver=partial(solver, **options),
        adjoint=reversible(),
        tol=0.05,
        max_steps=8,
    )
    return jnp.sum(jnp.sin(solution.value))


def layer_inputs():
    rng = np.random.default_rng(0)
    weight = PROBLEMS["radius 0.9"].matrix
    offset = rng.normal(size=(8, 6)) * np.linspace(0.1, 3, 8)[:, None]
    return jnp.asarray(weight, jnp.float32), jnp.asarray(offset, jnp.float32)


@pytest.fixture(scope="module")
def plain():
    return jax.jit(jax.grad(layer_loss, argnums=(0, 1)))(*layer_inputs())


def test_gradient_of_vmap(plain):
    def total(weight, offset):
        return jnp.sum(jax.vmap(layer_loss, in_axes=(None, 0))(weight, offset.reshape(4, 2, 6)))

    found = jax.jit(jax.grad(total, argnums=(0, 1)))(*layer_inputs())
    assert_close(found, plain, 2e-4)


def test_vmap_of_gradient(plain):
    mapped = jax.vmap(jax.grad(layer_loss, argnums=(0, 1)), in_axes=(None, 0))
    weight, offset = layer_inputs()
    in_weight, in_offset = jax.jit(mapped)(weight, offset.reshape(4, 2, 6))
    assert_close((in_weight.sum(axis=0), in_offset.reshape(8, 6)), plain, 2e-4)


@pytest.mark.parametrize("axis_name", [None, "replicas"], ids=["apart", "together"])
def test_pmap(plain, axis_name):
    weight, offset = layer_inputs()

    def replica(weight, offset):
        in_weight, in_offset = jax.grad(partial(layer_loss, axis_name=axis_name), argnums=(0, 1))(
            weight, offset
        )
        return jax.lax.psum(in_weight, "replicas"), in_offset

    mapped = jax.pmap(replica, axis_name="replicas", in_axes=(None, 0), out_axes=(None, 0))
    in_weight, in_offset = mapped(weight, offset.reshape(4, 2, 6))
    assert_close((in_weight, in_offset.reshape(8, 6)), plain, 2e-4)


def sharded_gradient():
    mesh = jax.make_mesh((4,), ("replicas",), axis_types=(AxisType.Auto,))
    specs = (PartitionSpec(), PartitionSpec("replicas"))
    # the gradient in the replicated weight is the sum over the devices, which shard_map inserts
    return jax.shard_map(
        jax.grad(layer_loss, argnums=(0, 1)), mesh=mesh, in_specs=specs, out_specs=specs
    )


def test_shard_map(plain):
    # each vjp sums over the devices, which must not wait for one that has undone its steps
    assert_close(jax.jit(sharded_gradient())(*layer_inputs()), plain, 2e-4)


def test_run_time_limits_compile_once():
    weight, offset = layer_inputs()

    @jax.jit
    def steps(tol, max_steps, damping, backward_tol):
        def loss(weight, probe):
            return dq.fixed_point(
                lambda z: jnp.tanh(z @ weight + offset),
                jnp.zeros_like(offset),
                solver=partial(coupled, damping=damping),
                adjoint=reversible(backward_tol),
                tol=tol,
                max_steps=max_steps,
                probe=probe,
            ).value.sum()

        return jax.grad(loss, argnums=1)(weight, dq.backward_probe(8)).steps

    assert steps(0.0, 3, 0.5, 1e-2).max() == 3
    assert steps(0.0, 6, 0.7, 1e-1).max() == 6
    assert steps._cache_size() == 1


@pytest.mark.parametrize(
    "other",
    [anderson, partial(picard, damping=0.5), lambda f, z0, keep_memory, **_: picard(f, z0, **_)],
    ids=["anderson", "picard", "one without the pair"],
)
def test_another_solver_is_refused(other):
    with pytest.raises(TypeError, match=r"pass solver=deqjax.solvers.reversible"):
        dq.fixed_point(lambda z: 0.5 * z, jnp.ones((2, 3)), solver=other, adjoint=reversible())


def test_a_typo_is_not_taken_for_another_solver():
    with pytest.raises(TypeError, match="dampnig"):
        dq.fixed_point(
            lambda z: 0.5 * z,
            jnp.ones((2, 3)),
            solver=partial(coupled, dampnig=0.5),
            adjoint=reversible(),
        )


def test_a_second_derivative_is_refused():
    def loss(gain):
        return dq.fixed_point(
            lambda z: gain * z + 1, jnp.ones((2, 3)), solver=solver, adjoint=reversible()
        ).value.sum()

    with pytest.raises(TypeError, match=r"no second derivative: use adjoints.unrolled\(\)"):
        jax.jit(jax.grad(jax.grad(loss)))(0.5)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="the backward tol must be zero or positive, got -1"):
        reversible(-1)
