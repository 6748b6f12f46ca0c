from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax import Status
from deqjax.solvers._reversible import CoupledState, reversible
from problems import CONTRACTING, PROBLEMS, ravel

pytestmark = pytest.mark.usefixtures("strict_promotion")


def reference(f, z0, steps, damping):
    """The paper's formulas, by numpy: z after each step."""
    y, z, rows = z0, z0, [z0]
    for _ in range(steps):
        y = (1 - damping) * y + damping * f(z)
        z = (1 - damping) * z + damping * f(y)
        rows.append(z)
    return np.stack(rows)


@partial(jax.jit, static_argnames=("f", "trajectory", "trace"))
def solve(f, z0, args, tol, max_steps, damping, trajectory=(), trace=0):
    options = {"tol": tol, "max_steps": max_steps, "damping": damping}
    return reversible(lambda z: f(z, *args), z0, trajectory=trajectory, trace=trace, **options)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("damping", [0.3, 0.8])
def test_each_step_is_that_of_the_formulas(damping):
    problem = PROBLEMS["tanh"]
    matrix, offset = problem.args
    solution = solve(problem.f, *problem.cast(float), 0.0, 6, damping, (1, 2, 6), 7)
    expected = reference(lambda z: np.tanh(z @ matrix.T + offset), problem.z0, 6, damping)
    np.testing.assert_allclose(solution.trajectory, expected[[1, 2, 6]], rtol=1e-13)
    images = np.tanh(expected @ matrix.T + offset)
    residuals = np.linalg.norm(images - expected, axis=2) / np.linalg.norm(images, axis=2)
    np.testing.assert_allclose(solution.stats.trace, residuals, rtol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name in CONTRACTING if name != "radius 0.99"])
def test_it_reaches_the_fixed_point(name):
    problem = PROBLEMS[name]
    solution = solve(problem.f, *problem.cast(float), 1e-10, 500, 0.8)
    assert (solution.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(ravel(solution.value), ravel(problem.solution), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("radius", [0.9, 1.1])
def test_it_contracts_where_the_magnitude_of_the_eigenvalues_is_below_one(radius):
    # of either sign, other than damped Picard iteration
    slope = jnp.array([[radius, -radius]])
    stats = reversible(lambda z: slope * z + 1, jnp.zeros((1, 2)), tol=1e-3, max_steps=200).stats
    assert (stats.status[0] == Status.CONVERGED) == (radius < 1)


def test_a_cycle_of_two_is_not_taken_for_a_fixed_point():
    # y and z come to rest at c and -c, which f swaps
    solution = reversible(lambda z: -jnp.tanh(3 * z), jnp.full((1, 1), 0.1), tol=1e-3, max_steps=60)
    assert solution.stats.status[0] == Status.STEP_LIMIT
    assert solution.stats.residual[0] > 1


def test_every_evaluation_counts():
    seen = []

    def f(z):
        jax.debug.callback(lambda _: seen.append(1), z, ordered=True)
        return 0.5 * z + 1

    stats = reversible(f, jnp.zeros((2, 3)), tol=1e-2, max_steps=50).stats
    jax.effects_barrier()
    assert stats.evaluations == len(seen) == 2 * (stats.steps.max() + 1)


@pytest.mark.parametrize("damping", [0, 0.0, 1, 1.0, 1.5, -0.5, float("nan"), np.float32(1)])
def test_a_step_that_cannot_be_undone_is_refused(damping):
    with pytest.raises(ValueError, match=f"strictly between 0 and 1, got {damping}: .* picard"):
        reversible(lambda z: 0.5 * z, jnp.ones((2, 3)), tol=1e-3, max_steps=3, damping=damping)


def test_an_array_of_dampings_is_refused():
    with pytest.raises(ValueError, match="damping must be one number, got an array of shape"):
        reversible(
            lambda z: 0.5 * z, jnp.ones((2, 3)), tol=1e-3, max_steps=3, damping=jnp.full((2,), 0.5)
        )


def test_a_wrong_layer_is_told_in_the_users_own_terms():
    with pytest.raises(ValueError, match=r"f changes the shape of z\['a'\] from \(2, 3\) to"):
        reversible(lambda z: {"a": z["a"][:, :2]}, {"a": jnp.ones((2, 3))}, tol=1e-3, max_steps=3)


def repel(z):
    """The residual grows with each step from a start beside 0.75."""
    return 3 - 3 * z


def solve_with_memory(f, z0, **options):
    return jax.jit(lambda z: reversible(f, z, tol=1e-3, keep_memory=True, **options))(z0)


def test_no_memory_is_kept_unless_asked_for():
    assert reversible(repel, jnp.ones((1, 1)), tol=1e-3, max_steps=3).memory is None


def test_the_memory_is_the_pair_that_was_returned():
    solution = solve_with_memory(repel, jnp.full((2, 1), 0.7), max_steps=5)
    memory = solution.memory
    assert isinstance(memory, CoupledState)
    np.testing.assert_array_equal(solution.stats.steps, 5)
    np.testing.assert_array_equal(memory.step, 0)
    np.testing.assert_array_equal(memory.shown, [[0, 0]])
    np.testing.assert_array_equal(memory.z, solution.value)
    np.testing.assert_array_equal(memory.y, solution.value)
    assert memory.longest == 0
    assert memory.damping == 0.5


def test_with_a_trajectory_the_memory_is_the_last_good_pair():
    # overflows at its best, converges at once, walks away, walks away and overflows
    gain, limit = jnp.array([[0.5], [0.0], [-3.0], [-3.0]]), jnp.array([[9.0], [9.0], [1e9], [9.0]])
    offset = jnp.array([[8.0], [3.0], [3.0], [3.0]])

    def f(z):
        return jnp.where(jnp.abs(z) > limit, jnp.inf, gain * z + offset)

    z0 = jnp.array([[1.0], [3.0], [0.7], [0.7]])
    solution = solve_with_memory(f, z0, max_steps=9, trajectory=(1, 2, 9))
    memory, steps = solution.memory, solution.stats.steps
    np.testing.assert_array_equal(
        solution.stats.status,
        [Status.DIVERGED, Status.CONVERGED, Status.STEP_LIMIT, Status.DIVERGED],
    )
    assert 2 <= steps[0] < 9
    assert 3 <= steps[3] < 9
    np.testing.assert_array_equal(memory.step, [steps[0] - 1, 0, 9, steps[3] - 1])
    assert memory.longest == 9
    assert np.isfinite(memory.z).all()
    # the value, then the rows; a diverged sample shows its best iterate from there on
    best = steps[0] - 1
    np.testing.assert_array_equal(memory.shown[:, 0], [best, 1, best, best])
    np.testing.assert_array_equal(memory.shown[:, 1], [0, 0, 0, 0])
    np.testing.assert_array_equal(memory.shown[:, 2], [0, 1, 2, 9])
    np.testing.assert_array_equal(memory.shown[:, 3], [0, 1, 2, 0])
    np.testing.assert_array_equal(memory.z[2], solution.trajectory[2, 2])


def test_a_bfloat16_state_is_kept_wide_between_evaluations():
    def f(z):
        return (0.5 * z.astype(jnp.float32) + 1).astype(z.dtype)

    solution = solve_with_memory(f, jnp.zeros((1, 1), jnp.bfloat16), max_steps=9, damping=0.01)
    assert solution.value.dtype == jnp.bfloat16
    assert solution.memory.z.dtype == jnp.float32
    expected = reference(lambda z: 0.5 * z + 1, np.zeros((1, 1)), 9, 0.01)[-1]
    np.testing.assert_allclose(solution.memory.z, expected, rtol=4e-3)


@pytest.mark.usefixtures("float64")
def test_a_broken_sample_changes_no_other():
    matrix, offset = PROBLEMS["tanh"].cast(float)[1]
    z0 = jnp.zeros_like(offset)

    @jax.jit
    def solve(spoil):
        return reversible(
            lambda z: jnp.tanh(z @ matrix.T + offset) + spoil[:, None], z0, tol=1e-6, max_steps=99
        )

    healthy = solve(jnp.zeros(4))
    broken = solve(jnp.zeros(4).at[1].set(jnp.nan))
    assert broken.stats.status[1] == Status.DIVERGED
    np.testing.assert_array_equal(broken.value[1], z0[1])
    for old, new in zip(
        (healthy.value, *healthy.stats[:3]), (broken.value, *broken.stats[:3]), strict=True
    ):
        np.testing.assert_array_equal(np.delete(old, 1, axis=0), np.delete(new, 1, axis=0))


def test_differentiable_mode_computes_the_same():
    problem = PROBLEMS["dict"]
    z0, args = problem.cast(jnp.float32)

    @partial(jax.jit, static_argnames="differentiable")
    def solve(z0, differentiable):
        return reversible(
            lambda z: problem.f(z, *args),
            z0,
            tol=1e-1,
            max_steps=12,
            differentiable=differentiable,
        )

    plain, scanned = solve(z0, False), solve(z0, True)
    assert len(np.unique(plain.stats.steps)) > 1
    np.testing.assert_array_equal(plain.stats.steps, scanned.stats.steps)
    np.testing.assert_allclose(ravel(plain.value), ravel(scanned.value), rtol=1e-5, atol=1e-6)
