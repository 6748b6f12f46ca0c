"""The sweep against solves of each depth, done one by one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax import Status
from deqjax.diagnostics import DepthSweep, depth_sweep
from deqjax.solvers import anderson, picard
from problems import PROBLEMS

pytestmark = pytest.mark.usefixtures("strict_promotion")

STEPS = (1, 2, 5, 9)


def halving(z, offset):
    """Fixed point 2 * offset; k steps from 0 leave a relative distance of 0.5**k."""
    return 0.5 * z + offset


def first(z):
    return z[:, 0]


def halving_sweep(**options):
    """Three samples whose offsets differ, by Picard iteration unless told otherwise."""
    offset = jnp.array([[1.0, 2.0], [3.0, -1.0], [5.0, 4.0]])
    return depth_sweep(halving, 0 * offset, offset, **{"solver": picard, **options})


@pytest.mark.parametrize("solver", [picard, partial(anderson, history=2)], ids=["picard", "aa"])
def test_each_depth_is_the_state_that_such_a_solve_returns(solver):
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(jnp.float32)
    sweep = depth_sweep(
        problem.f, z0, *args, steps=STEPS, solver=solver, metrics={"state": lambda z: z}
    )

    @jax.jit
    def solve(max_steps):
        return solver(lambda z: problem.f(z, *args), z0, tol=0.0, max_steps=max_steps)

    for depth, limit in enumerate(STEPS):
        alone = solve(limit)
        np.testing.assert_allclose(sweep.metrics["state"][depth], alone.value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sweep.residual[depth], alone.stats.residual, rtol=0.02)
    np.testing.assert_array_equal(sweep.steps, STEPS)


def test_the_distance_is_to_the_deepest_state():
    sweep = halving_sweep(steps=(1, 3, 40))
    np.testing.assert_allclose(sweep.distance[:2], [[0.5] * 3, [0.125] * 3], rtol=1e-6)
    np.testing.assert_array_equal(sweep.distance[2], 0)


def test_shapes_and_dtypes():
    sweep = halving_sweep(metrics={"mean": jnp.mean, "all": lambda z: z, "sign": lambda z: z > 0})
    assert isinstance(sweep, DepthSweep)
    for leaf in (sweep.residual, sweep.distance):
        assert (leaf.shape, leaf.dtype) == ((6, 3), jnp.float32)
    assert (sweep.status.shape, sweep.status.dtype) == ((6, 3), jnp.int32)
    assert {name: leaf.shape for name, leaf in sweep.metrics.items()} == {
        "mean": (6,),
        "all": (6, 3, 2),
        "sign": (6, 3, 2),
    }


def test_all_depths_share_one_trace_of_the_solver():
    traced = []

    def counting(f, z0, *, tol, max_steps):
        traced.append(max_steps)
        return picard(f, z0, tol=tol, max_steps=max_steps)

    halving_sweep(solver=counting, steps=tuple(range(1, 20)))
    assert len(traced) == 1


def test_a_tolerance_stops_earlier():
    sweep = halving_sweep(tol=0.3)
    assert (sweep.status[-1] == Status.CONVERGED).all()
    np.testing.assert_array_equal(sweep.residual[-1], sweep.residual[1])


def test_a_sample_that_diverges_keeps_to_itself():
    gain = jnp.array([[0.5], [1e30]])
    sweep = depth_sweep(
        lambda z, g: g * z + 1, jnp.ones((2, 1)), gain, steps=(1, 2, 4), solver=picard
    )
    assert (sweep.status[-1] == jnp.array([Status.STEP_LIMIT, Status.DIVERGED])).all()
    assert np.isfinite(sweep.distance).all()
    assert str(sweep).splitlines()[-1].split()[:2] == ["4", "1"]


def test_dict_states_and_integers_pass():
    problem = PROBLEMS["dict"]
    z0, args = problem.cast(jnp.float32)

    def f(z, matrix, offset, index, key):
        moved = jax.tree.map(lambda x: jnp.take(x, index, axis=0), offset)
        mask = jax.random.bernoulli(key, 0.5, (4, 3)).astype(jnp.float32)
        z = problem.f(z, matrix, moved)
        return {**z, "hidden": mask * z["hidden"]}

    sweep = depth_sweep(
        f, z0, *args, jnp.arange(4), jax.random.key(0), steps=(1, 50), solver=picard
    )
    assert (sweep.residual[1] < 1e-5).all()
    assert (sweep.residual[0] > 1e-2).all()


@pytest.mark.parametrize("closed_over", [False, True], ids=["args", "closure"])
def test_within_jit_and_grad_it_rides_along_without_gradient(closed_over):
    def loss(offset):
        f, args = (lambda z: halving(z, offset), ()) if closed_over else (halving, (offset,))
        sweep = depth_sweep(
            f, jnp.zeros((2, 3)), *args, steps=(1, 2), solver=picard, metrics={"norm": jnp.sum}
        )
        return offset.sum() + sum(jnp.sum(leaf) for leaf in sweep.metrics.values()), sweep

    gradient, sweep = jax.jit(jax.grad(loss, has_aux=True))(jnp.full((2, 3), 2.0))
    np.testing.assert_array_equal(gradient, 1)
    np.testing.assert_allclose(sweep.distance, [[1 / 3] * 2, [0, 0]], rtol=1e-6)


def test_under_vmap_every_member_is_its_own_sweep():
    def sweep(offset):
        return depth_sweep(halving, 0 * offset, offset, steps=(1, 2), solver=picard)

    offsets = jnp.arange(1.0, 13.0).reshape(2, 3, 2)
    together = jax.vmap(sweep)(offsets)
    np.testing.assert_allclose(together.residual[1], sweep(offsets[1]).residual, rtol=1e-6)


def test_under_shard_map_each_device_sweeps_its_samples():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shard, depths = jax.P("data"), jax.P(None, "data")

    def residual(offset):
        return depth_sweep(halving, 0 * offset, offset, steps=(1, 2), solver=picard).residual

    offsets = jnp.arange(1.0, 9.0).reshape(4, 2)
    mapped = jax.shard_map(residual, mesh=mesh, in_specs=shard, out_specs=depths)
    np.testing.assert_allclose(jax.jit(mapped)(offsets), residual(offsets), rtol=1e-6)


def test_it_prints_medians_and_largest_values():
    sweep = halving_sweep(steps=(1, 3, 40), metrics={"head": first, "count": lambda z: z.shape[0]})
    lines = str(sweep).splitlines()
    assert lines[0].split() == ["diverged", "residual", "distance", "head", "count"]
    assert lines[1].split() == ["steps", "samples", *["median", "largest"] * 4]
    assert lines[2].split() == ["1", "0", "0.333", "0.333", "0.5", "0.5", "3", "5", "3", "3"]
    assert len(lines) == 5
    # columns end together
    assert len({len(line) for line in lines[1:]}) == 1


def test_inside_jit_it_has_no_numbers_to_print():
    shown = []

    def inside(offset):
        sweep = depth_sweep(halving, 0 * offset, offset, steps=(1,), solver=picard)
        shown.append(str(sweep))
        return sweep.residual

    jax.jit(inside)(jnp.ones((2, 3)))
    assert shown[0].startswith("DepthSweep(")


@pytest.mark.parametrize(
    "steps", [(), (0, 1), (1, 1), (2, 1), (1.0, 2.0), (True, 2), 4, "12"], ids=repr
)
def test_malformed_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"steps must be increasing Python ints >= 1, as in"):
        halving_sweep(steps=steps)


def test_a_range_of_steps_is_fine():
    np.testing.assert_array_equal(halving_sweep(steps=range(1, 4)).steps, [1, 2, 3])


@pytest.mark.parametrize("metrics", [jnp.sum, {"norm": 3.0}], ids=["function", "number"])
def test_malformed_metrics_are_refused(metrics):
    with pytest.raises(TypeError, match="metrics must map names to functions of z"):
        halving_sweep(metrics=metrics)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match=r"tol must be zero or positive, got -1\.0"):
        halving_sweep(tol=-1.0)


def test_a_function_that_changes_the_dtype_is_refused():
    with pytest.raises(TypeError, match="f changes the dtype of z"):
        depth_sweep(lambda z: z.astype(jnp.bfloat16), jnp.ones((2, 3)))
