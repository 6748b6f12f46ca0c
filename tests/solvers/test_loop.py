"""The loop: stopping, freezing, best iterate, statistics. What holds for every solver."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax import Status
from deqjax.solvers import anderson, broyden, gmres, newton_krylov, picard, reversible
from problems import PROBLEMS, with_radius

pytestmark = pytest.mark.usefixtures("strict_promotion")

short_anderson = partial(anderson, history=3)  # compiles faster than the default
SOLVERS = pytest.mark.parametrize("solver", [picard, short_anderson], ids=["picard", "anderson"])
BATCH, SIZE, ODD, ROWS = 64, 5, 17, 301


def layer(z, matrix, offset, gain):
    """tanh with a contraction of its own for each sample."""
    return jnp.tanh(gain[:, None] * (z @ matrix.T) + offset)


def inputs(dtype):
    rng = np.random.default_rng(0)
    matrix, offset = with_radius(1.0, SIZE), rng.normal(size=(BATCH, SIZE))
    gain = np.linspace(0.1, 0.97, BATCH)
    return tuple(jnp.asarray(x, dtype) for x in (matrix, offset, gain))


@partial(jax.jit, static_argnames="solver")
def compiled(solver, z0, args, tol, max_steps):
    return solver(lambda z: layer(z, *args), z0, tol=tol, max_steps=max_steps, trace=ROWS)


def solve_layer(solver, z0, *args, tol=1e-5, max_steps=300):
    return compiled(solver, z0, args, tol, max_steps)


def others(leaf):
    return np.delete(np.asarray(leaf), ODD, axis=0)


@SOLVERS
@pytest.mark.usefixtures("float64")
def test_a_batch_is_its_samples_solved_alone(solver):
    matrix, offset, gain = inputs(float)
    together = solve_layer(solver, jnp.zeros((BATCH, SIZE)), matrix, offset, gain)
    alone = [
        solve_layer(solver, jnp.zeros((1, SIZE)), matrix, offset[i : i + 1], gain[i : i + 1])
        for i in range(BATCH)
    ]
    assert len(np.unique(together.stats.steps)) > 3, "the samples are to stop at different steps"
    np.testing.assert_array_equal(
        together.stats.steps, np.concatenate([s.stats.steps for s in alone])
    )
    np.testing.assert_allclose(
        together.value, np.concatenate([s.value for s in alone]), rtol=0, atol=1e-13
    )


@partial(jax.jit, static_argnames="solver")
def solve_spoiled(solver, z0, args, spoil):
    return solver(lambda z: layer(z, *args) + spoil[:, None], z0, tol=1e-5, max_steps=300)


@SOLVERS
@pytest.mark.parametrize("poison", [np.nan, np.inf, 3e38], ids=["nan", "inf", "overflow"])
def test_a_broken_sample_changes_no_other(solver, poison):
    matrix, offset, gain = inputs(np.float32)
    z0 = jnp.full((BATCH, SIZE), 0.25, jnp.float32)
    # a linear term keeps an overflow: tanh alone would bound it
    spoil = jnp.zeros((BATCH,), jnp.float32).at[ODD].set(poison)
    solve = partial(solve_spoiled, solver, z0, (matrix, offset, gain))
    healthy, broken = solve(jnp.zeros_like(spoil)), solve(spoil)
    assert broken.stats.status[ODD] == Status.DIVERGED
    np.testing.assert_array_equal(broken.value[ODD], z0[ODD])
    for name in ("steps", "residual", "status"):
        old, new = getattr(healthy.stats, name), getattr(broken.stats, name)
        np.testing.assert_array_equal(others(old), others(new), err_msg=name)
    np.testing.assert_array_equal(others(healthy.value), others(broken.value))


@SOLVERS
def test_a_late_overflow_returns_the_last_good_iterate(solver):
    solution = solver(
        lambda z: jnp.where(z > 10, jnp.inf, 2 * z + 1), jnp.ones((2, 1)), tol=1e-6, max_steps=50
    )
    if solver is picard:  # 1, 3, 7, 15: away from the repelling fixed point, to the overflow at 15
        np.testing.assert_array_equal(solution.value, np.ones((2, 1)))
        assert (solution.stats.status == Status.DIVERGED).all()
    else:  # Anderson finds the repelling fixed point
        np.testing.assert_allclose(solution.value, -np.ones((2, 1)), atol=1e-5)


@SOLVERS
def test_a_sample_at_its_fixed_point_takes_no_step(solver):
    matrix, offset, gain = inputs(np.float32)
    start = jnp.zeros((BATCH, SIZE), jnp.float32)
    z = solve_layer(solver, start, matrix, offset, gain, tol=0.0).value[ODD]
    solution = solve_layer(solver, start.at[ODD].set(z), matrix, offset, gain)
    assert solution.stats.steps[ODD] == 0
    assert (others(solution.stats.steps) > 0).all()
    np.testing.assert_array_equal(solution.value[ODD], z)


@SOLVERS
def test_a_stopped_sample_stays_where_it_is(solver):
    seen = []

    def f(z):
        jax.debug.callback(lambda z: seen.append(np.asarray(z)), z, ordered=True)
        return jnp.array([[0.1], [1.0]]) * jnp.cos(z)

    steps = solver(f, jnp.zeros((2, 1)), tol=1e-3, max_steps=100).stats.steps
    jax.effects_barrier()
    first, second = (np.array(seen)[:, i, 0] for i in range(2))
    assert steps[0] < steps[1]
    np.testing.assert_array_equal(first[steps[0] :], first[steps[0]])
    assert len(np.unique(first)) == steps[0] + 1
    assert len(np.unique(second)) == steps[1] + 1


@SOLVERS
def test_a_fixed_point_at_zero_is_converged(solver):
    solution = solver(lambda z: 0.5 * z, jnp.zeros((2, 3)), tol=0.0, max_steps=5)
    assert (solution.stats.status == Status.CONVERGED).all()


@pytest.mark.usefixtures("float64")
def test_a_repelling_map_returns_the_best_iterate():
    # contracts along one axis and repels along the other: the residual falls, then rises
    gain = jnp.array([0.1, -1.5])
    z0 = jnp.array([[2.0, 1 + 1e-4]])

    def f(z):
        return 1 + gain[None] * (z - 1)

    solution = picard(f, z0, tol=1e-9, max_steps=30, trace=31)
    stats, value = solution.stats, np.asarray(solution.value)
    image = np.asarray(f(value))
    residual = np.linalg.norm(image - value) / np.linalg.norm(image)
    assert stats.status[0] == Status.STEP_LIMIT
    assert 0 < np.nanargmin(stats.trace[:, 0]) < 30
    np.testing.assert_allclose(stats.residual[0], np.nanmin(stats.trace), rtol=1e-12)
    np.testing.assert_allclose(stats.residual[0], residual, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_picard_never_converges_at_radius_above_one():
    problem = PROBLEMS["radius 1.5"]
    z0, args = problem.cast(float)
    solution = picard(lambda z: problem.f(z, *args), z0, tol=1e-3, max_steps=3000)
    assert (solution.stats.status != Status.CONVERGED).all()
    assert np.isfinite(solution.value).all()


@SOLVERS
@pytest.mark.parametrize("max_steps", [3, 300])
def test_the_residual_is_that_of_the_returned_value(solver, max_steps):
    with jax.enable_x64(True):
        z0, args = jnp.zeros((BATCH, SIZE)), inputs(float)
        solution = solve_layer(solver, z0, *args, max_steps=max_steps)
        image = layer(solution.value, *args)
        change = jnp.linalg.norm(image - solution.value, axis=1)
        np.testing.assert_allclose(
            solution.stats.residual, change / jnp.linalg.norm(image, axis=1), rtol=1e-9
        )


@SOLVERS
def test_absolute_residual_is_the_numerator(solver):
    args = inputs(np.float32)

    def f(z):
        return 10 * layer(z / 10, *args)

    @jax.jit
    def solve(z0):
        solution = solver(f, z0, tol=1e-2, max_steps=300, stop="absolute")
        return solution, f(solution.value) - solution.value

    solution, change = solve(jnp.zeros((BATCH, SIZE), jnp.float32))
    np.testing.assert_allclose(
        solution.stats.residual, jnp.linalg.norm(change, axis=1), rtol=0.05, atol=1e-5
    )
    assert (solution.stats.residual <= 1e-2).all()
    assert solution.stats.residual.max() > 1e-3, "relative residuals would be ten times smaller"


@SOLVERS
@pytest.mark.parametrize("max_steps", [4, 300])
def test_evaluations_are_the_slowest_samples_steps_and_one(solver, max_steps):
    z0 = jnp.zeros((BATCH, SIZE), jnp.float32)
    stats = solve_layer(solver, z0, *inputs(np.float32), max_steps=max_steps).stats
    assert stats.evaluations == stats.steps.max() + 1


@SOLVERS
def test_steps_stop_at_the_limit(solver):
    z0 = jnp.zeros((BATCH, SIZE), jnp.float32)
    stats = solve_layer(solver, z0, *inputs(np.float32), tol=0.0, max_steps=4).stats
    np.testing.assert_array_equal(stats.steps, 4)


@SOLVERS
def test_trace_shows_the_residual_before_each_step_then_nan(solver):
    z0 = jnp.zeros((BATCH, SIZE), jnp.float32)
    stats = solve_layer(solver, z0, *inputs(np.float32)).stats
    trace, steps = np.asarray(stats.trace), np.asarray(stats.steps)
    assert trace.shape == (ROWS, BATCH)
    row = np.arange(ROWS)[:, None]
    np.testing.assert_array_equal(np.isnan(trace), row > steps)
    # converged samples return the last iterate that they measured
    np.testing.assert_array_equal(trace[steps, np.arange(BATCH)], stats.residual)


def test_a_short_trace_keeps_the_first_rows():
    def trace(rows):
        return picard(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=0.1, max_steps=9, trace=rows)

    np.testing.assert_array_equal(trace(2).stats.trace, trace(9).stats.trace[:2])


@SOLVERS
@pytest.mark.parametrize("state", ["bfloat16", "float32"])
def test_low_precision_is_measured_in_float32(solver, state):
    matrix, offset, gain = (x.astype(jnp.bfloat16) for x in inputs(np.float32))

    def f(z):
        return layer(z.astype(jnp.bfloat16), matrix, offset, gain).astype(z.dtype)

    z0 = jnp.zeros((BATCH, SIZE), state)
    solution = jax.jit(lambda z: solver(f, z, tol=2e-2, max_steps=100))(z0)
    assert solution.stats.residual.dtype == jnp.float32
    assert solution.value.dtype == z0.dtype
    assert np.isfinite(solution.stats.residual).all()
    assert (solution.stats.status == Status.CONVERGED).mean() > 0.9


def test_a_bfloat16_residual_resolves_more_than_bfloat16():
    # 256 features of 1 % change each: a bfloat16 sum of squares would stall at its 8 bits
    z0 = jnp.ones((1, 4096), jnp.bfloat16)
    solution = picard(lambda z: z * 1.0078125, z0, tol=0.0, max_steps=1, stop="absolute")
    np.testing.assert_allclose(solution.stats.residual, 64 * 0.0078125, rtol=1e-6)


@SOLVERS
@pytest.mark.usefixtures("float64")
def test_float64_states_are_measured_in_float64(solver):
    solution = solve_layer(solver, jnp.zeros((BATCH, SIZE)), *inputs(float), tol=1e-12)
    assert solution.stats.residual.dtype == jnp.float64
    assert (solution.stats.residual <= 1e-12).all()


@SOLVERS
def test_differentiable_mode_computes_the_same(solver):
    args = inputs(np.float32)
    z0 = jnp.zeros((BATCH, SIZE), jnp.float32)
    plain = solve_layer(solver, z0, *args, max_steps=12)
    scanned = jax.jit(
        lambda z: solver(lambda z: layer(z, *args), z, tol=1e-5, max_steps=12, differentiable=True)
    )(z0)
    np.testing.assert_array_equal(plain.stats.steps, scanned.stats.steps)
    np.testing.assert_array_equal(plain.stats.status, scanned.stats.status)
    np.testing.assert_allclose(plain.value, scanned.value, rtol=1e-5, atol=1e-6)


@SOLVERS
def test_statistics_are_strongly_typed(solver):
    # a weak type recompiles a jitted consumer and breaks a scan's carry
    stats = solver(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=1e-3, max_steps=3).stats
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(stats))


@SOLVERS
def test_an_unknown_option_is_refused(solver):
    with pytest.raises(TypeError, match="dampnig"):
        solver(lambda z: z, jnp.ones((2, 3)), tol=1e-3, max_steps=3, dampnig=0.5)


@SOLVERS
def test_replicas_stop_together_on_their_axis(solver):
    # one replica starts at its fixed point and one does not
    z0 = jnp.array([2.0, 0.0]).reshape(2, 1, 1)

    def evaluations(axis_name):
        def replica(z):
            f = lambda z: 0.9 * z + 0.2  # noqa: E731
            return solver(f, z, tol=1e-5, max_steps=200, axis_name=axis_name).stats

        stats = jax.pmap(replica, axis_name="replicas", devices=jax.devices()[:2])(z0)
        return np.asarray(stats.evaluations), np.asarray(stats.steps)[:, 0]

    apart, steps_apart = evaluations(None)
    together, steps_together = evaluations("replicas")
    assert apart[0] == 1 < apart[1]
    assert together[0] == together[1] == apart[1]
    np.testing.assert_array_equal(steps_apart, steps_together)


@pytest.mark.parametrize("solver", [picard, anderson, broyden, newton_krylov, reversible, gmres])
def test_a_misspelled_option_is_named(solver):
    with pytest.raises(
        TypeError, match="no option 'histroy'; it takes stop, norm, min_steps, returns, numbered"
    ):
        solver(lambda z: 0.5 * z, jnp.ones((2, 3)), tol=1e-3, max_steps=5, histroy=3)


def test_a_sample_without_patience_left_stops_at_its_best_and_the_others_go_on():
    # one sample alternates for good, and does so whatever the other one does
    slopes = jnp.array([[-1.0], [0.5]])

    def run(slopes):
        z0 = jnp.ones_like(slopes)
        f = lambda z: slopes * z + 1  # noqa: E731
        return picard(f, z0, tol=1e-5, max_steps=40, patience=3)

    together, alone = run(slopes), run(slopes[:1])
    np.testing.assert_array_equal(together.stats.steps[0], alone.stats.steps[0])
    assert together.stats.steps[0] == 3
    assert together.stats.status.tolist() == [Status.STEP_LIMIT, Status.CONVERGED]
    np.testing.assert_array_equal(together.value[0], 1)
    with pytest.raises(ValueError, match=r"patience must be a Python int >= 1 or None, got 1\.5"):
        picard(lambda z: 0.5 * z, jnp.ones((2, 3)), tol=1e-3, max_steps=5, patience=1.5)


def test_patience_does_not_go_with_the_last_iterate():
    options = {"tol": 1e-3, "max_steps": 5, "patience": 2, "returns": "last"}
    with pytest.raises(ValueError, match="patience=2 waits for a better iterate than the best"):
        picard(lambda z: 0.5 * z, jnp.ones((2, 3)), **options)


@partial(jax.jit, static_argnames=("solver", "returns", "patience"))
def solve_moving(solver, returns, patience, slopes, max_steps):
    """A map that moves by its step: a sample that f saw once too often would be another."""

    def f(z, step):
        return slopes[:, None] * z + jnp.sin(1.5 * step.astype(z.dtype))

    z0 = jnp.ones((len(slopes), 3))
    options = {"returns": returns, "patience": patience, "numbered": True, "trace": 13}
    return solver(f, z0, tol=1e-3, max_steps=max_steps, **options)


@SOLVERS
@pytest.mark.parametrize(
    ("returns", "patience"),
    [("best", None), ("last", None), ("image", None), ("best", 2), ("image", 2)],
)
@pytest.mark.usefixtures("float64")
def test_a_sample_without_steps_left_stays_as_it_is_however_long_the_others_go_on(
    solver, returns, patience
):
    run = partial(solve_moving, solver, returns, patience)
    slopes, limits = jnp.array([0.9, 0.2, 0.95]), jnp.array([2, 12, 5])
    together = run(slopes, limits)
    for sample in range(3):
        row = slice(sample, sample + 1)
        alone = run(slopes[row], limits[row])
        assert alone.stats.steps[0] == together.stats.steps[sample]
        assert alone.stats.status[0] == together.stats.status[sample]
        for of_one, of_all in (
            (alone.value[0], together.value[sample]),
            (alone.stats.residual[0], together.stats.residual[sample]),
            (alone.stats.trace[:, 0], together.stats.trace[:, sample]),
        ):
            np.testing.assert_allclose(of_one, of_all, rtol=1e-12)
