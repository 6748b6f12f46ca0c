"""Broyden's method, step by step against dense updates, and what it does when they degenerate."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax import Status
from deqjax.solvers import anderson, picard
from deqjax.solvers._broyden import broyden
from problems import PROBLEMS, ravel, with_radius

pytestmark = pytest.mark.usefixtures("strict_promotion")


@partial(jax.jit, static_argnames=("f", "rank", "line_search"))
def solve(f, z0, tol=1e-6, max_steps=20, rank=2, line_search=False):
    return broyden(
        f, z0, tol=tol, max_steps=max_steps, rank=rank, line_search=line_search, keep_memory=True
    )


def dense_estimate(pairs, size):
    """Broyden's H from the identity by one Sherman-Morrison update a pair, oldest first."""
    estimate = np.eye(size)
    for s, y in pairs:
        denominator = s @ estimate @ y
        estimate = estimate + np.outer(s - estimate @ y, s @ estimate) / denominator
    return estimate


def reference(f, z0, evaluations, rank, damping=1.0, line_search=False):
    """One sample by the formulas: ||g|| of each z at which f is evaluated, last H, backtracks."""
    z, g, pairs = z0, f(z0) - z0, []
    residuals, backtracks = [np.linalg.norm(g)], 0
    while True:
        estimate = dense_estimate(pairs[-rank:], len(z0))
        step = damping * estimate @ g
        for halvings in range(6):
            trial = z + step / 2**halvings
            g_trial = f(trial) - trial
            residuals.append(np.linalg.norm(g_trial))
            if len(residuals) == evaluations:
                pairs.append((trial - z, g - g_trial))
                return np.array(residuals), dense_estimate(pairs[-rank:], len(z0)), backtracks
            bound = (1 - 1e-4 * damping / 2**halvings) * np.linalg.norm(g)
            if not line_search or residuals[-1] <= bound:
                break
            backtracks += halvings < 5
        pairs.append((trial - z, g - g_trial))
        z, g = trial, g_trial


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("rank", "damping"), [(1, 1.0), (3, 0.5), (10, 1.0)])
def test_each_step_and_the_inverse_are_those_of_the_formulas(rank, damping):
    problem = PROBLEMS["tanh"]
    z0, (matrix, offset) = problem.cast(float)
    solver = partial(broyden, rank=rank, damping=damping, stop="absolute", keep_memory=True)

    @jax.jit
    def solve(z0):
        return solver(lambda z: problem.f(z, matrix, offset), z0, tol=0.0, max_steps=8, trace=9)

    solution = solve(z0)
    # row j of the transposed images of the unit vectors is row j of H
    unit = [jnp.broadcast_to(row[None], z0.shape) for row in jnp.eye(6)]
    columns = np.stack([solution.memory.apply(x) for x in unit], axis=2)
    rows = np.stack([solution.memory.transposed.apply(x) for x in unit], axis=1)
    for i, row in enumerate(offset):
        f = lambda z, row=row: np.tanh(matrix @ z + row)  # noqa: E731
        residuals, estimate, _ = reference(f, np.zeros(6), 9, rank, damping)
        np.testing.assert_allclose(solution.stats.trace[:, i], residuals, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(columns[i], estimate, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(rows[i], estimate, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("float64")
def test_samples_search_along_their_lines_at_their_own_pace():
    problem = PROBLEMS["radius 1.5"]
    z0, (matrix, offset) = problem.cast(float)
    solver = partial(broyden, rank=4, line_search=True, stop="absolute", trace=31)
    solution = jax.jit(
        lambda z: solver(lambda z: problem.f(z, matrix, offset), z, tol=0.0, max_steps=30)
    )(z0)
    counts = []
    for i, row in enumerate(offset):
        expected, _, backtracks = reference(
            lambda z, row=row: matrix @ z + row, np.zeros(6), 31, 4, line_search=True
        )
        counts.append(backtracks)
        np.testing.assert_allclose(solution.stats.trace[:, i], expected, rtol=1e-5)
    assert len(set(counts)) > 1
    assert min(counts) > 0


def test_the_line_search_saves_a_step_that_runs_away():
    # from 7 the full step leads to -195, where f is beyond float32
    def f(z):
        return z - jnp.sinh(z - 1)

    z0 = jnp.array([[7.0], [1.1]])
    plain, searched = (solve(f, z0, line_search=search).stats for search in (False, True))
    assert plain.status[0] != Status.CONVERGED
    assert (searched.status == Status.CONVERGED).all()
    # the sample that needs no search takes the same steps
    assert plain.steps[1] == searched.steps[1]


@partial(jax.jit, static_argnames=("f", "rank"))
def solve_linear(f, z0, args, rank):
    return broyden(lambda z: f(z, *args), z0, tol=1e-8, max_steps=99, rank=rank)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["radius 0.99", "non-normal", "radius 1.5", "dict"])
def test_a_linear_map_is_solved_in_twice_its_dimension(name):
    problem = PROBLEMS[name]
    size = len(problem.matrix)
    solution = solve_linear(problem.f, *problem.cast(float), 2 * size)
    assert (solution.stats.steps <= 2 * size).all()
    np.testing.assert_allclose(ravel(solution.value), ravel(problem.solution), rtol=1e-6)


def random_layer(radius, offset_scale):
    """Of width 64, a random matrix of the given spectral radius and offsets, in float32."""
    rng = np.random.default_rng(0)
    matrix = np.float32(rng.normal(size=(64, 64)) * radius / 8)
    return matrix, np.float32(rng.normal(size=(16, 64)) * offset_scale)


@partial(jax.jit, static_argnames="solver")
def solve_wide(solver, matrix, offset):
    z0 = jnp.zeros_like(offset)
    return solver(lambda z: jnp.tanh(z @ matrix + offset), z0, tol=1e-4, max_steps=300).stats


long_anderson = partial(anderson, history=10)


@pytest.mark.parametrize("radius", [0.9, 1.2])
def test_a_short_memory_solves_wide_layers_in_about_as_many_steps_as_anderson(radius):
    wide = random_layer(radius, 0.2)
    found, expected = (solve_wide(solver, *wide) for solver in (broyden, long_anderson))
    assert (found.status == Status.CONVERGED).all()
    assert np.median(found.steps) <= 1.2 * np.median(expected.steps)
    if radius > 1:
        assert (solve_wide(picard, *wide).status == Status.STEP_LIMIT).any()


GAINS = jnp.array([0.2, 0.6]), jnp.array([0.2, 0.9])  # the first sample has another mate


@pytest.mark.parametrize("line_search", [False, True])
def test_the_inverse_of_a_stopped_sample_stays_as_it_is(line_search):
    matrix = jnp.asarray(with_radius(1.0), jnp.float32)
    offset = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)), jnp.float32)

    @jax.jit
    def solve(gain):
        def f(z):
            return jnp.tanh(gain[:, None] * (z @ matrix) + offset)

        return broyden(
            f,
            jnp.zeros((2, 6)),
            tol=1e-5,
            max_steps=200,
            rank=3,
            line_search=line_search,
            keep_memory=True,
        )

    one, other = (solve(gain) for gain in GAINS)
    assert len({int(one.stats.evaluations), int(other.stats.evaluations)}) == 2
    assert one.stats.steps[0] == other.stats.steps[0] < one.stats.steps[1]
    for a, b in zip(jax.tree.leaves(one.memory), jax.tree.leaves(other.memory), strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_a_trial_that_converges_is_accepted_although_the_residual_rose():
    # the first sample goes from 0, residual 1 / 1, to 1, residual 1.5 / 2.5, and stops there; its
    # mate is done at once or jumps to and fro, long enough for the last backtrack
    @partial(jax.jit, static_argnames="jumps")
    def solve(jumps):
        def f(z):
            mate = jnp.where(z > 0, z - 10, z + 10) if jumps else jnp.ones_like(z)
            return jnp.where(jnp.array([[True], [False]]), 1 + 1.5 * z, mate)

        z0 = jnp.array([[0.0], [1.0]])
        return broyden(f, z0, tol=0.7, max_steps=9, line_search=True, keep_memory=True)

    alone, together = solve(jumps=False), solve(jumps=True)
    assert (alone.stats.evaluations, together.stats.evaluations) == (2, 10)
    for a, b in zip(jax.tree.leaves(alone.memory), jax.tree.leaves(together.memory), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    # I - J = -0.5 is learned from that one step
    np.testing.assert_allclose(together.memory.apply(jnp.ones((2, 1)))[0], -2, rtol=1e-6)


def test_the_inverse_is_handed_out_on_request_only():
    assert broyden(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=1e-3, max_steps=3).memory is None


def identity(z):
    return z


def translation(z):
    """No fixed point, and every change of the residual is zero."""
    return z + 1


def degenerate(z):
    """By sample: a constant, the identity, and steps that are all multiples of one vector."""
    line = 0.9 * z[2:].mean(axis=1, keepdims=True) * jnp.ones_like(z[2:]) + 1
    return jnp.concatenate([jnp.ones_like(z[:1]), z[1:2], line])


@pytest.mark.parametrize(("rank", "line_search"), [(2, True), (5, False)])  # in 3 dimensions
def test_degenerate_steps_still_converge(rank, line_search):
    z0 = jnp.full((3, 3), 0.25)
    solution = solve(degenerate, z0, tol=1e-5, rank=rank, line_search=line_search)
    np.testing.assert_array_equal(solution.stats.status, Status.CONVERGED)
    expected = np.broadcast_to([[1.0], [0.25], [10.0]], (3, 3))
    np.testing.assert_allclose(solution.value, expected, rtol=1e-4)


def test_a_map_without_fixed_point_stays_finite():
    solution = solve(translation, jnp.zeros((2, 3)))
    assert (solution.stats.status == Status.STEP_LIMIT).all()
    np.testing.assert_array_equal(solution.value, 0)


@pytest.mark.parametrize("rank", [2, 5])
def test_steps_past_the_fixed_point_stay_finite(rank):
    matrix, offset = np.float32([[0.5, 0.2], [-0.3, 0.4]]), np.float32([[0.1, 0.2]])

    def f(z):
        return jnp.tanh(z @ matrix + offset)

    solution = solve(f, jnp.zeros((1, 2)), tol=0.0, max_steps=60, rank=rank)
    assert (solution.stats.status != Status.DIVERGED).all()
    assert solution.stats.residual[0] < 1e-6


def test_an_update_without_denominator_is_skipped():
    # I - J turns the first sample by a right angle: s^T y is zero for every s
    turn = jnp.array([[[0.0, -1.0], [1.0, 0.0]], [[0.5, 0.0], [0.0, 0.5]]])

    def f(z):
        return z - jnp.sum(turn * z[:, None, :], axis=2) + 1

    solution = solve(f, jnp.zeros((2, 2)), max_steps=5)
    assert np.isfinite(solution.value).all()
    state = jnp.array([[1.0, 2.0], [1.0, 2.0]])
    np.testing.assert_array_equal(solution.memory.apply(state)[0], state[0])
    assert solution.stats.status[1] == Status.CONVERGED


def test_a_pair_that_teaches_nothing_takes_the_place_of_the_oldest():
    # from -10: g = 6, 3, then 1 for ever, so that H = 1, 6 / 3, 6 / 2 and no change after that
    def f(z):
        return jnp.where(z < 1, 0.5 * z + 1, z + 1)

    for max_steps, estimate in ((2, 3), (3, 3), (4, 1), (8, 1)):
        solution = solve(f, jnp.full((1, 1), -10.0), max_steps=max_steps)
        found = solution.memory.apply(jnp.ones((1, 1)))
        np.testing.assert_allclose(found, estimate, rtol=1e-6)
        np.testing.assert_allclose(solution.value, 2, rtol=1e-6)  # the first where g is 1


@pytest.mark.usefixtures("float64")
def test_the_loop_differentiates():
    problem = PROBLEMS["radius 0.5"]
    z0, args = problem.cast(float)

    @jax.jit
    @jax.grad
    def gradient(args):
        def f(z):
            return problem.f(z, *args)

        # beyond convergence: frozen samples must not send NaN back
        value = broyden(f, z0, tol=1e-7, max_steps=15, rank=3, differentiable=True).value
        return jnp.sum(value)

    expected = problem.dense_gradient(np.ones_like(problem.solution))
    for found, dense in zip(gradient(args), expected, strict=True):
        np.testing.assert_allclose(found, dense, rtol=1e-4, atol=1e-4)


def test_a_wrong_rank_is_refused():
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        broyden(identity, jnp.ones((2, 3)), tol=1e-3, max_steps=3, rank=0)


def test_the_line_search_halves_a_step_to_where_f_has_no_value():
    # from 3 the full step leads to -8, where the logarithm is NaN
    solution = solve(lambda z: z - 10 * jnp.log(z), jnp.full((2, 2), 3.0), line_search=True)
    assert (solution.stats.status == Status.CONVERGED).all()
    np.testing.assert_allclose(solution.value, 1, rtol=1e-3)


@pytest.mark.parametrize("start", [-1.0, 3.0])
def test_a_search_without_any_finite_trial_is_diverged(start):
    # f has a value at 3 alone, or nowhere
    solution = solve(
        lambda z: jnp.where(z == 3, 4.0, jnp.nan), jnp.full((1, 1), start), line_search=True
    )
    assert solution.stats.status[0] == Status.DIVERGED
    np.testing.assert_array_equal(solution.value, start)
    assert np.isinf(solution.stats.residual[0]) == (start == -1)


def restarting(f, z0, evaluations):
    """One sample with restarts, by dense updates: ||g|| of each z, last H, how many restarts."""
    z, g, estimate, scale, restarts = z0, f(z0) - z0, np.eye(len(z0)), 1.0, 0
    best, residuals = (z, g), [np.linalg.norm(g)]
    while len(residuals) < evaluations:
        trial = z + estimate @ g
        g_trial = f(trial) - trial
        residuals.append(np.linalg.norm(g_trial))
        ran_away = residuals[-1] > 1000 * np.linalg.norm(best[1])
        if ran_away:
            z, g = best
            scale, restarts = scale / 2, restarts + 1
            estimate = scale * np.eye(len(z0))
        s, y = trial - z, g - g_trial
        estimate = estimate + np.outer(s - estimate @ y, s @ estimate) / (s @ estimate @ y)
        if not ran_away:
            z, g = trial, g_trial
        if np.linalg.norm(g) <= np.linalg.norm(best[1]):
            best = z, g
    return residuals, estimate, restarts


@pytest.mark.usefixtures("float64")
def test_a_runaway_restarts_from_the_best_iterate_with_shorter_steps():
    weights = np.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.2, 1.0]])

    def f(z):  # z - F(z) with F of steep, different slopes
        return z - ((z @ weights) ** 3 + 20 * z - 1)

    starts = np.array([[3.0, -2, 1], [0.1, 0.1, 0.1]])
    solver = partial(broyden, rank=10, stop="absolute", keep_memory=True)
    solution = solver(f, jnp.asarray(starts), tol=0.0, max_steps=8, trace=9)
    expected = [restarting(f, start, 9) for start in starts]
    # the batch mate does not restart with it
    assert expected[0][2] >= 2
    assert expected[0][2] != expected[1][2]
    for i, (residuals, estimate, restarts) in enumerate(expected):
        np.testing.assert_allclose(solution.stats.trace[:, i], residuals, rtol=1e-6, atol=1e-12)
        assert solution.memory.scale[i] == 0.5**restarts
        columns = [solution.memory.apply(jnp.asarray(np.tile(e, (2, 1))))[i] for e in np.eye(3)]
        np.testing.assert_allclose(np.stack(columns, axis=1), estimate, rtol=1e-6, atol=1e-9)


def test_a_map_that_contracts_keeps_its_own_first_step():
    solution = broyden(
        lambda z: 0.5 * z + 1e6, jnp.zeros((1, 3)), tol=1e-6, max_steps=1, trace=2, keep_memory=True
    )
    np.testing.assert_allclose(solution.value, 1e6)
    np.testing.assert_array_equal(solution.memory.scale, 1)
