"""GMRES as a solver of the library's contract, on affine maps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from deqjax import Status
from deqjax.solvers import anderson, gmres
from problems import LINEAR, PROBLEMS, ravel, with_radius

pytestmark = pytest.mark.usefixtures("strict_promotion")

BATCH, SIZE, ODD = 16, 24, 5


def layer(z, matrix, offset, gain):
    return gain[:, None] * (z @ matrix.T) + offset


def inputs(dtype=np.float32):
    """Radii from 0.1 to 2, one for each sample."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(SIZE, SIZE))
    matrix /= np.abs(np.linalg.eigvals(matrix)).max()
    gain, offset = np.linspace(0.1, 2, BATCH), rng.normal(size=(BATCH, SIZE))
    return tuple(jnp.asarray(x, dtype) for x in (matrix, offset, gain))


def exact(matrix, offset, gain):
    matrix, offset, gain = (np.asarray(x, np.float64) for x in (matrix, offset, gain))
    systems = np.eye(SIZE) - gain[:, None, None] * matrix
    return np.linalg.solve(systems, offset[:, :, None])[:, :, 0]


@partial(jax.jit, static_argnames=("solver", "stop"))
def solve(args, z0, tol=1e-5, max_steps=60, solver=gmres, stop="relative"):
    return solver(
        lambda z: layer(z, *args), z0, tol=tol, max_steps=max_steps, stop=stop, trace=8
    )  # fmt: skip


@partial(jax.jit, static_argnames="f")
def solve_problem(f, z0, args):
    return gmres(lambda z: f(z, *args), z0, tol=1e-13, max_steps=40)


def start(args):
    return jnp.zeros_like(args[1])


def others(leaf):
    return np.delete(np.asarray(leaf), ODD, axis=0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("problem", LINEAR.values(), ids=LINEAR)
def test_solves_affine_maps_in_their_dimension(problem):
    solution = solve_problem(problem.f, *problem.cast(float))
    assert (solution.stats.status == Status.CONVERGED).all()
    assert (solution.stats.steps <= len(problem.matrix)).all()
    np.testing.assert_allclose(ravel(solution.value), ravel(problem.solution), rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_restarts_solve_what_one_cycle_cannot():
    matrix, offset, _ = inputs(float)
    args = matrix, offset, jnp.full((BATCH,), 0.9)
    solution = solve(args, start(args), 1e-10, 200, partial(gmres, restart=5))
    assert (solution.stats.status == Status.CONVERGED).all()
    assert (solution.stats.steps > 10).all()
    np.testing.assert_allclose(solution.value, exact(*args), rtol=1e-7, atol=1e-8)
    # the true residual before each cycle falls
    trace = np.asarray(solution.stats.trace)
    assert np.nanmax(trace[1:] / trace[:-1]) < 1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("stop", ["relative", "absolute"])
def test_a_sample_stops_as_soon_as_its_residual_allows(stop):
    args = inputs(float)
    run = partial(solve, args, start(args), solver=partial(gmres, restart=SIZE), stop=stop)
    found = run(tol=1e-4, max_steps=60).stats
    assert (found.status == Status.CONVERGED).all()
    assert len(np.unique(found.steps)) > 5
    for steps in np.unique(found.steps):
        shorter = run(tol=0.0, max_steps=int(steps) - 1).stats
        assert (shorter.residual[found.steps == int(steps)] > 1e-4).all()


@pytest.mark.usefixtures("float64")
def test_no_method_with_as_many_products_leaves_a_smaller_residual():
    # Anderson's iterates lie in the same Krylov spaces
    args = inputs(float)
    products = 8
    found = solve(args, start(args), 0.0, products, partial(gmres, restart=8), "absolute").stats
    rival = solve(args, start(args), 0.0, products, anderson, "absolute").stats
    assert (found.residual <= rival.residual * (1 + 1e-9)).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("known", "cycle"), [(40, SIZE), (9, 9), (None, SIZE)])
def test_by_default_a_cycle_lasts_as_long_as_the_solve_can_use(known, cycle):
    args = inputs(float)

    def evaluations(restart):
        limit = jnp.int32(9) if known is None else known
        run = partial(gmres, tol=0.0, stop="absolute", restart=restart, max_steps=limit)
        return run(lambda z: layer(z, *args), start(args)).stats

    found, expected = evaluations(None), evaluations(cycle)
    np.testing.assert_array_equal(found.residual, expected.residual)
    assert found.evaluations == expected.evaluations


@pytest.mark.parametrize("max_steps", [0, 1, 7, 20, 21])
def test_products_stop_at_the_limit(max_steps):
    args = inputs()
    stats = solve(args, start(args), 0.0, max_steps, partial(gmres, restart=20)).stats
    np.testing.assert_array_equal(stats.steps, max_steps)
    assert (stats.status == Status.STEP_LIMIT).all()
    cycles = 0 if max_steps == 0 else min(max_steps, -(-max_steps // 20) + 1)
    assert stats.evaluations == max_steps + cycles + 1


def test_the_last_pass_only_measures():
    # each cycle exhausts the three dimensions; rounding keeps the residual above zero
    matrix = jnp.asarray(with_radius(0.9, 3), jnp.float32)
    offset = jnp.asarray(np.random.default_rng(9).normal(size=(BATCH, 3)), jnp.float32)
    solution = gmres(lambda z: z @ matrix.T + offset, 0 * offset, tol=0.0, max_steps=21, restart=20)
    assert (solution.stats.status == Status.STEP_LIMIT).any()
    assert solution.stats.steps.max() <= 3 * 3


def test_evaluations_are_what_the_slowest_sample_needs():
    seen = []
    matrix, offset, gain = inputs()

    def f(z):
        jax.debug.callback(lambda _: seen.append(1), z[0, 0])
        return layer(z, matrix, offset, gain / 3)

    stats = gmres(f, start((matrix, offset)), tol=1e-3, max_steps=60).stats
    jax.effects_barrier()
    assert (stats.status == Status.CONVERGED).all()
    cycles = int(stats.evaluations) - int(stats.steps.max())
    assert cycles == 2
    # each pass evaluates f once to measure it and once to linearize it, which XLA may merge
    assert len(seen) in (cycles, 2 * cycles)


def test_limits_may_be_traced():
    args = inputs()
    run = jax.jit(
        lambda tol, limit: gmres(
            lambda z: layer(z, *args), start(args), tol=tol, max_steps=limit
        ).stats
    )  # fmt: skip
    full, limited, loose = run(1e-4, 60), run(1e-4, 3), run(1e-1, 60)
    assert run._cache_size() == 1
    assert limited.steps.max() == 3
    assert (loose.steps <= full.steps).all()
    assert loose.steps.sum() < full.steps.sum()


@pytest.mark.usefixtures("float64")
def test_a_batch_is_its_samples_solved_alone():
    matrix, offset, gain = inputs(float)
    together = solve((matrix, offset, gain), jnp.zeros((BATCH, SIZE)), 1e-8)
    alone = [
        solve((matrix, offset[i : i + 1], gain[i : i + 1]), jnp.zeros((1, SIZE)), 1e-8)
        for i in range(BATCH)
    ]
    assert len(np.unique(together.stats.steps)) > 3
    for name in ("steps", "status"):
        expected = np.concatenate([getattr(s.stats, name) for s in alone])
        np.testing.assert_array_equal(getattr(together.stats, name), expected, err_msg=name)
    np.testing.assert_allclose(
        together.value, np.concatenate([s.value for s in alone]), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("poison", [np.nan, np.inf, 3e38])
def test_a_broken_sample_changes_no_other(poison):
    matrix, offset, gain = inputs()
    z0 = jnp.full_like(offset, 0.25)
    healthy = solve((matrix, offset, gain), z0)
    broken = solve((matrix, offset.at[ODD].set(poison), gain), z0)
    assert broken.stats.status[ODD] == Status.DIVERGED
    np.testing.assert_array_equal(broken.value[ODD], z0[ODD])
    for name in ("steps", "residual", "status"):
        old, new = getattr(healthy.stats, name), getattr(broken.stats, name)
        np.testing.assert_array_equal(others(old), others(new), err_msg=name)
    np.testing.assert_array_equal(others(healthy.value), others(broken.value))


def test_a_sample_at_its_fixed_point_uses_no_product():
    args = inputs()
    solved = jnp.asarray(exact(*args), jnp.float32)
    stats = solve(args, start(args).at[ODD].set(solved[ODD])).stats
    assert stats.steps[ODD] == 0
    assert stats.status[ODD] == Status.CONVERGED
    assert (others(stats.steps) > 0).all()


def test_a_map_without_fixed_point_stays_finite():
    solution = gmres(lambda z: z + 1, jnp.zeros((2, 3)), tol=1e-6, max_steps=10)
    assert (solution.stats.status == Status.STEP_LIMIT).all()
    np.testing.assert_array_equal(solution.value, 0)


def test_a_residual_is_measured_for_a_map_that_is_not_affine():
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(jnp.float32)
    solution = gmres(lambda z: problem.f(z, *args), z0, tol=1e-6, max_steps=7, restart=4)
    image = np.asarray(problem.f(solution.value, *args))
    change = np.linalg.norm(image - solution.value, axis=1)
    np.testing.assert_allclose(
        solution.stats.residual, change / np.linalg.norm(image, axis=1), rtol=1e-3
    )
    assert (solution.stats.status == Status.STEP_LIMIT).all()


def test_bfloat16_states_are_solved_to_their_rounding():
    matrix, offset, gain = inputs()
    args = matrix.astype(jnp.bfloat16), offset.astype(jnp.bfloat16), (gain / 3).astype(jnp.bfloat16)
    solution = solve(args, start(args), 2e-2)
    assert solution.value.dtype == jnp.bfloat16
    assert solution.stats.residual.dtype == jnp.float32
    assert (solution.stats.status == Status.CONVERGED).all()


def test_it_runs_on_every_device_with_its_own_products():
    args = inputs()
    plain = solve(args, start(args))
    mesh = jax.make_mesh((4,), ("replicas",), axis_types=(AxisType.Auto,))
    spec, whole = PartitionSpec("replicas"), PartitionSpec()

    def replica(matrix, offset, gain):
        solution = gmres(
            lambda z: layer(z, matrix, offset, gain), jnp.zeros_like(offset), tol=1e-5, max_steps=60
        )
        return solution.value, solution.stats.steps, solution.stats.evaluations[None]

    run = jax.jit(
        jax.shard_map(
            replica, mesh=mesh, in_specs=(whole, spec, spec), out_specs=(spec, spec, spec)
        )
    )
    value, steps, evaluations = run(*args)
    np.testing.assert_array_equal(steps, plain.stats.steps)
    np.testing.assert_allclose(value, plain.value, rtol=1e-4, atol=1e-5)
    assert evaluations[0] < evaluations[-1] == plain.stats.evaluations


def test_replicas_stop_together_on_their_axis():
    # the first replica starts solved; f has a collective in it
    offset = jnp.ones((2, 1, 3)).at[0].set(0)
    matrix = jnp.asarray(with_radius(0.9, 3), jnp.float32)

    def replica(offset):
        def f(z):
            total = jax.lax.psum(jnp.ones(()), "replicas")
            return z @ matrix.T * (total / 2) + offset

        solution = gmres(
            f, jnp.zeros_like(offset), tol=1e-5, max_steps=20, restart=2, axis_name="replicas"
        )
        return solution.stats

    stats = jax.pmap(replica, axis_name="replicas", devices=jax.devices()[:2])(offset)
    assert stats.evaluations[0] == stats.evaluations[1]
    assert stats.steps[0, 0] == 0 < stats.steps[1, 0]
    assert (stats.status == Status.CONVERGED).all()


def test_vmap_over_solves():
    matrix, offset, gain = inputs()

    def run(offset, gain):
        f = partial(layer, matrix=matrix, offset=offset, gain=gain)
        return gmres(f, jnp.zeros_like(offset), tol=1e-5, max_steps=60, restart=8).value

    gain = gain / 3
    halves = jax.jit(jax.vmap(run))(offset.reshape(2, 8, SIZE), gain.reshape(2, 8))
    np.testing.assert_allclose(halves.reshape(BATCH, SIZE), run(offset, gain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"restart": 0}, ValueError, "restart must be at least 1, got 0"),
        ({"restart": 2.5}, TypeError, "restart must be a whole number, got 2.5"),
        ({"max_steps": -1}, ValueError, "max_steps must be at least 0, got -1"),
        ({"tol": -1.0}, ValueError, "tol must be zero or positive, got -1.0"),
        ({"differentiable": True}, ValueError, "gmres cannot be unrolled .* anderson or picard"),
        ({"restrat": 5}, TypeError, "restrat"),
    ],
)
def test_a_wrong_option_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        gmres(lambda z: 0.5 * z, jnp.ones((2, 3)), **{"tol": 1e-3, "max_steps": 3, **options})


@pytest.mark.usefixtures("float64")
def test_a_weak_contraction_costs_far_less_than_anderson():
    matrix = jnp.asarray(with_radius(0.995, 200))
    offset = jnp.asarray(np.random.default_rng(7).normal(size=(2, 200)))

    def evaluations(solver):
        return jax.jit(
            lambda b: solver(lambda z: z @ matrix.T + b, 0 * b, tol=1e-5, max_steps=500).stats
        )(offset).evaluations

    assert int(evaluations(gmres)) < 0.7 * int(evaluations(anderson))
