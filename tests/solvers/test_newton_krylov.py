"""Newton-Krylov against scipy, against its own formulas in numpy, and where others fail."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.sharding import AxisType, PartitionSpec

from deqjax import Status
from deqjax.solvers import newton_krylov
from problems import PROBLEMS, ravel

pytestmark = pytest.mark.usefixtures("strict_promotion")

BATCH, SIZE, ODD = 8, 6, 3


def layer(z, matrix, offset):
    return jnp.tanh(z @ matrix.T + offset)


def inputs(radius=3.0, dtype=np.float32):
    rng = np.random.default_rng(12)
    matrix = rng.normal(size=(SIZE, SIZE))
    matrix *= radius / np.abs(np.linalg.eigvals(matrix)).max()
    return jnp.asarray(matrix, dtype), jnp.asarray(rng.normal(size=(BATCH, SIZE)), dtype)


@partial(jax.jit, static_argnames=("f", "stop"))
def solve(f, z0, args=(), tol=1e-5, max_steps=100, stop="relative", **options):
    options |= {"tol": tol, "max_steps": max_steps, "stop": stop, "trace": 40}
    return newton_krylov(lambda z: f(z, *args), z0, **options)


def others(leaf):
    return np.delete(np.asarray(leaf), ODD, axis=0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_finds_the_known_fixed_point(problem):
    solution = solve(problem.f, *problem.cast(float), tol=1e-12, max_steps=30)
    assert (solution.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(ravel(solution.value), ravel(problem.solution), atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_solves_tanh_layers_of_radius_three():
    matrix, offset = inputs(dtype=float)
    solution = solve(layer, jnp.zeros_like(offset), (matrix, offset), tol=1e-12)
    assert (solution.stats.status == Status.CONVERGED).all()
    repelling = 0
    for z, b in zip(np.asarray(solution.value), np.asarray(offset), strict=True):

        def slope(z, b=b):
            return (1 - np.tanh(matrix @ z + b) ** 2)[:, None] * np.asarray(matrix)

        root = scipy.optimize.root(
            lambda z, b=b: np.tanh(matrix @ z + b) - z,
            z + 1e-3,
            jac=lambda z, slope=slope: slope(z) - np.eye(SIZE),
            tol=1e-14,
        )
        assert np.abs(root.fun).max() < 1e-13
        np.testing.assert_allclose(z, root.x, atol=1e-10)
        repelling += np.abs(np.linalg.eigvals(slope(z))).max() > 1
    assert repelling > 0, "Picard could solve all samples"


@pytest.mark.usefixtures("float64")
def test_convergence_is_quadratic_in_the_end():
    problem = PROBLEMS["tanh"]
    solution = solve(problem.f, *problem.cast(float), tol=1e-12, max_steps=30)
    before, after = np.asarray(solution.stats.trace)[:-1], np.asarray(solution.stats.trace)[1:]
    late = (before < 1e-2) & (before > 1e-8)  # the last step is solved as far as tol needs
    assert late.any(axis=0).all()
    assert (after[late] < 5 * before[late] ** 2).all()


def reference(g, slope, z, passes, backtracks=2, damping=1.0):
    """The method for one unknown, where GMRES is exact: |g| at each trial point, directions."""
    trace, directions, damped_steps = [abs(g(z))], 0, 1

    def evaluate(trial):
        trace.append(abs(g(trial)))
        return trace[-1]

    while len(trace) <= passes:
        directions += 1
        step = -g(z) / slope(z)
        for length in 0.5 ** np.arange(backtracks + 1):
            value = evaluate(z + length * step)
            if value <= (1 - 1e-4 * length) * abs(g(z)):  # false for NaN
                z = z + length * step
                break
        else:
            for _ in range(damped_steps):
                z = z + damping * g(z)
                evaluate(z)
            damped_steps *= 2
    return np.array(trace[: passes + 1]), directions


def cubic(z):
    """g = -(z^3 - 2 z + 2) / 4 has a local minimum of |g| at 0.8 and its root at -1.77."""
    return z - (z**3 - 2 * z + 2) / 4


def flat(z):
    """Undamped Newton steps for arctan diverge from beyond 1.39."""
    return z - jnp.arctan(z)


def logarithm(z):
    """The first Newton step from 3 leads to where the logarithm is not a number."""
    return z - jnp.log(z)


GAPS = {  # g and its derivative
    cubic: (lambda z: -(z**3 - 2 * z + 2) / 4, lambda z: -(3 * z**2 - 2) / 4),
    flat: (lambda z: -np.arctan(z), lambda z: -1 / (1 + z**2)),
    logarithm: (lambda z: -np.log(z) if z > 0 else np.nan, lambda z: -1 / z),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "options", [{}, {"backtracks": 4, "damping": 0.5}, {"backtracks": 0, "damping": 1.0}], ids=str
)
@pytest.mark.parametrize(
    ("f", "start"), [(cubic, 0.0), (flat, 10.0), (logarithm, 3.0)], ids=["cubic", "flat", "log"]
)
def test_each_trial_point_is_that_of_the_formulas(f, start, options):
    if f is logarithm and options.get("backtracks") == 0:
        start = 2.9  # so that the damped step stays positive
    passes, z0 = 14, jnp.full((1, 1), start)
    solution = solve(f, z0, tol=1e-9, max_steps=passes, stop="absolute", **options)
    expected, _ = reference(*GAPS[f], start, passes, **options)
    steps = int(solution.stats.steps[0])
    assert steps >= 5
    found = np.asarray(solution.stats.trace)[: steps + 1, 0]
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected[: steps + 1]))
    seen = np.isfinite(found)
    np.testing.assert_allclose(found[seen], expected[: steps + 1][seen], rtol=1e-6, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_local_minimum_of_the_residual_is_left():
    solution = solve(cubic, jnp.zeros((1, 1)), tol=1e-12)
    assert solution.stats.status[0] == Status.CONVERGED
    np.testing.assert_allclose(solution.value, -1.7692923542386314, rtol=1e-12)
    trace = np.asarray(solution.stats.trace)[:, 0]
    assert np.nanmax(trace[1:] / trace[:-1]) > 1


@pytest.mark.usefixtures("float64")
def test_a_map_that_is_not_finite_everywhere_is_solved():
    start = jnp.array([[3.0], [0.5], [40.0]])
    solution = solve(logarithm, start, tol=1e-12)
    assert (solution.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(solution.value, 1, rtol=1e-11)
    trace = np.asarray(solution.stats.trace)
    assert np.isinf(trace[1, [0, 2]]).all(), "rejected trial points show as infinite"
    assert np.isfinite(trace[:3, 1]).all()


@pytest.mark.usefixtures("float64")
def test_samples_that_backtrack_cost_no_product():
    stats = solve(flat, jnp.full((1, 1), 10.0), tol=1e-9, stop="absolute").stats
    steps = int(stats.steps[0])
    _, directions = reference(*GAPS[flat], 10.0, steps)
    assert directions < steps
    # one unknown: each direction is one product
    assert int(stats.evaluations) == steps + 1 + directions


def spoiled(z, spoil, *args):
    return layer(z, *args) + spoil[:, None]


@pytest.mark.parametrize("poison", [np.nan, np.inf, 3e38])
def test_a_sample_without_a_finite_start_is_diverged_and_changes_no_other(poison):
    matrix, offset = inputs(1.5)
    z0 = jnp.full((BATCH, SIZE), 0.25, jnp.float32)
    args = matrix, offset

    spoil = jnp.zeros((BATCH,), jnp.float32)
    healthy = solve(spoiled, z0, (spoil, *args))
    broken = solve(spoiled, z0, (spoil.at[ODD].set(poison), *args))
    assert broken.stats.status[ODD] == Status.DIVERGED
    assert broken.stats.steps[ODD] == 0
    assert broken.stats.residual[ODD] == np.inf
    np.testing.assert_array_equal(broken.value[ODD], z0[ODD])
    for name in ("steps", "residual", "status"):
        old, new = getattr(healthy.stats, name), getattr(broken.stats, name)
        np.testing.assert_array_equal(others(old), others(new), err_msg=name)
    np.testing.assert_array_equal(others(healthy.value), others(broken.value))
    assert broken.stats.evaluations <= healthy.stats.evaluations


def halving(z):
    return 0.5 * z + 1


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_start_that_is_not_finite_is_diverged(poison):
    z0 = jnp.zeros((2, 3)).at[1].set(poison)
    stats = solve(halving, z0, max_steps=9).stats
    np.testing.assert_array_equal(stats.status, [Status.CONVERGED, Status.DIVERGED])
    assert stats.steps[1] == 0
    assert stats.evaluations < 9


def test_a_small_value_of_f_is_not_taken_for_a_failure():
    # f(z) = 0: a relative residual as large as float32 can hold
    def f(z):
        return 0 * z

    statuses = [solve(f, jnp.full((1, 1), 1e3), max_steps=n).stats.status[0] for n in (3, 0)]
    assert statuses == [Status.CONVERGED, Status.STEP_LIMIT]


@pytest.mark.usefixtures("float64")
def test_a_batch_is_its_samples_solved_alone():
    matrix, offset = inputs(dtype=float)
    together = solve(layer, jnp.zeros((BATCH, SIZE)), (matrix, offset), tol=1e-9)
    alone = [
        solve(layer, jnp.zeros((1, SIZE)), (matrix, offset[i : i + 1]), tol=1e-9)
        for i in range(BATCH)
    ]
    assert len(np.unique(together.stats.steps)) > 2
    np.testing.assert_array_equal(
        together.stats.steps, np.concatenate([s.stats.steps for s in alone])
    )
    np.testing.assert_allclose(
        together.value, np.concatenate([s.value for s in alone]), rtol=0, atol=1e-11
    )


def test_steps_stop_at_the_limit_and_the_best_is_returned():
    # no fixed point: |g| = |2 + z^2| is smallest at zero, where Newton's step is unbounded
    solution = solve(
        lambda z: z + 2 + z**2, jnp.array([[0.3], [2.0]]), max_steps=30, stop="absolute"
    )
    np.testing.assert_array_equal(solution.stats.steps, 30)
    assert (solution.stats.status == Status.STEP_LIMIT).all()
    trace = np.asarray(solution.stats.trace)
    np.testing.assert_array_equal(solution.stats.residual, np.nanmin(trace, axis=0))
    assert np.isfinite(solution.value).all()


def test_limits_may_be_traced():
    args = inputs()
    z0 = jnp.zeros((BATCH, SIZE), jnp.float32)

    @jax.jit
    def run(tol, max_steps, inner_tol, backtracks, damping):
        return newton_krylov(
            lambda z: layer(z, *args),
            z0,
            tol=tol,
            max_steps=max_steps,
            inner_tol=inner_tol,
            backtracks=backtracks,
            damping=damping,
        ).stats

    full = run(1e-4, 60, 0.5, 2, 1.0)
    limited = run(1e-4, 2, 0.5, 2, 1.0)
    tight = run(1e-4, 60, 1e-3, 2, 1.0)
    assert run._cache_size() == 1
    assert limited.steps.max() == 2
    assert (tight.evaluations - tight.steps.max()) > (full.evaluations - full.steps.max())


def test_a_state_of_low_precision_is_solved_to_its_rounding():
    matrix, offset = (x.astype(jnp.bfloat16) for x in inputs(0.9))
    solution = solve(layer, jnp.zeros_like(offset), (matrix, offset), tol=1e-2, max_steps=40)
    assert solution.value.dtype == jnp.bfloat16
    assert solution.stats.residual.dtype == jnp.float32
    assert (solution.stats.status == Status.CONVERGED).all()


def test_it_runs_on_every_device():
    matrix, offset = inputs(1.5)
    plain = solve(layer, jnp.zeros_like(offset), (matrix, offset))
    mesh = jax.make_mesh((4,), ("replicas",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("replicas"), PartitionSpec()

    def replica(matrix, offset):
        solution = newton_krylov(
            lambda z: layer(z, matrix, offset), jnp.zeros_like(offset), tol=1e-5, max_steps=100
        )
        return solution.value, solution.stats.steps

    run = jax.shard_map(replica, mesh=mesh, in_specs=(whole, split), out_specs=(split, split))
    value, steps = jax.jit(run)(matrix, offset)
    np.testing.assert_array_equal(steps, plain.stats.steps)
    np.testing.assert_allclose(value, plain.value, rtol=1e-3, atol=1e-4)


def test_replicas_stop_together_on_their_axis():
    # the first replica starts solved; f has a collective in it
    offset = jnp.ones((2, 1, SIZE), jnp.float32).at[0].set(0)
    matrix, _ = inputs(0.9)

    def replica(offset):
        def f(z):
            replicas = jax.lax.psum(jnp.ones((), jnp.float32), "replicas")
            return jnp.tanh(z @ matrix.T * (replicas / 2) + offset)

        return newton_krylov(
            f, jnp.zeros_like(offset), tol=1e-5, max_steps=20, krylov=6, axis_name="replicas"
        ).stats

    stats = jax.pmap(replica, axis_name="replicas", devices=jax.devices()[:2])(offset)
    assert stats.evaluations[0] == stats.evaluations[1]
    assert stats.steps[0, 0] == 0 < stats.steps[1, 0]
    assert (stats.status == Status.CONVERGED).all()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"krylov": 0}, ValueError, "krylov must be at least 1, got 0"),
        ({"inner_tol": -0.5}, ValueError, "inner_tol must be zero or positive, got -0.5"),
        ({"backtracks": -1}, ValueError, "backtracks must be at least 0, got -1"),
        ({"damping": -1.0}, ValueError, "damping must be zero or positive, got -1.0"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1, got 0"),
        ({"differentiable": True}, ValueError, "newton_krylov cannot be unrolled"),
        ({"krilov": 5}, TypeError, "krilov"),
    ],
)
def test_a_wrong_option_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        newton_krylov(
            lambda z: 0.5 * z, jnp.ones((2, 3)), **{"tol": 1e-3, "max_steps": 3} | options
        )
