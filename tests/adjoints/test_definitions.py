"""Each rule against its own definition, written out with dense matrices or a plain loop."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax import Status
from deqjax.adjoints import implicit, jacobian_free, neumann, phantom, unrolled
from deqjax.solvers import anderson, picard
from problems import PROBLEMS, ravel

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

NAMES = pytest.mark.parametrize("name", ["radius 0.9", "tanh", "dict"])


def cotangent_for(state, seed=5):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state)


def inner(v, z):
    return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(v), jax.tree.leaves(z), strict=True))


def gradient(problem, adjoint, *, solver=picard, dtype=float, max_steps=400, product=None):
    """Gradients of <v, z*>, or of another product of the solution, in the matrix and the offset."""
    z0, args = problem.cast(dtype)
    v = cotangent_for(z0)

    @jax.jit
    @jax.grad
    def of(args):
        solution = dq.fixed_point(
            problem.f, z0, *args, solver=solver, adjoint=adjoint, tol=1e-13, max_steps=max_steps
        )
        return inner(v, solution.value) if product is None else product(solution)

    return of(args)


@partial(jax.jit, static_argnames="f")
def evaluate(f, z, args):
    return f(z, *args)


def slopes(problem, z):
    """(batch, n): derivative of the problem's last elementwise function at z."""
    return 1 - ravel(z) ** 2 if problem.name == "tanh" else np.ones_like(ravel(z))


def jacobians(problem, z):
    """(batch, n, n); for tanh z must be a fixed point or an image f(z')."""
    return slopes(problem, z)[:, :, None] * np.asarray(problem.args[0])


def image_of(problem, z):
    return jax.tree.map(np.asarray, evaluate(problem.f, z, problem.cast(float)[1]))


def dense_terms(problem, z, v, terms):
    """(batch, n): v + J^T v + ... , each sample with its own J at z."""
    transposes = jacobians(problem, image_of(problem, z)).transpose(0, 2, 1)
    term, total = ravel(v), 0
    for _ in range(terms):
        total, term = total + term, np.einsum("bij,bj->bi", transposes, term)
    return total


def dense_limit(problem, z, v):
    """(batch, n): the w of w = J^T w + v at z."""
    transposes = jacobians(problem, image_of(problem, z)).transpose(0, 2, 1)
    size = transposes.shape[-1]
    return np.linalg.solve(np.eye(size) - transposes, ravel(v)[..., None])[..., 0]


def pulled(problem, z, w):
    """(df/dmatrix)^T w and (df/doffset)^T w at z, for f = s(matrix z + offset)."""
    at = slopes(problem, image_of(problem, z)) * w
    return at.T @ ravel(z), at


def assert_gradient(found, expected, rtol=1e-9):
    matrix, offset = found
    np.testing.assert_allclose(matrix, expected[0], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(ravel(offset), expected[1], rtol=rtol, atol=rtol)


@NAMES
def test_jacobian_free_is_one_vector_jacobian_product(name):
    problem = PROBLEMS[name]
    v = ravel(cotangent_for(problem.solution))
    assert_gradient(gradient(problem, jacobian_free()), pulled(problem, problem.solution, v))


@NAMES
@pytest.mark.parametrize("terms", [1, 2, 7])
def test_neumann_is_its_sum(name, terms):
    problem = PROBLEMS[name]
    z = problem.solution
    w = dense_terms(problem, z, cotangent_for(z), terms)
    assert_gradient(gradient(problem, neumann(terms)), pulled(problem, z, w))


def test_one_term_is_the_jacobian_free_gradient_bit_for_bit():
    problem = PROBLEMS["dict"]
    one, free = gradient(problem, neumann(1)), gradient(problem, jacobian_free())
    jax.tree.map(np.testing.assert_array_equal, one, free)


def damped_loop(problem, start, args, steps, damping):
    z = jax.lax.stop_gradient(start)
    for _ in range(steps):
        new = problem.f(z, *args)
        z = jax.tree.map(lambda old, new: (1 - damping) * old + damping * new, z, new)
    return z


def looped_gradient(problem, start, steps, damping, v):
    args = problem.cast(float)[1]
    loss = jax.grad(lambda a: inner(v, damped_loop(problem, start, a, steps, damping)))
    return jax.jit(loss)(args)


@NAMES
@pytest.mark.parametrize(("steps", "damping"), [(4, 0.3), (3, 1.0)])
def test_phantom_is_a_damped_loop_from_the_fixed_point(name, steps, damping):
    problem = PROBLEMS[name]
    start = jax.tree.map(jnp.asarray, problem.solution)
    matrix, offset = looped_gradient(problem, start, steps, damping, cotangent_for(start))
    assert_gradient(gradient(problem, phantom(steps, damping)), (matrix, ravel(offset)))


def test_undamped_phantom_is_the_neumann_sum():
    problem = PROBLEMS["tanh"]
    z = problem.solution
    w = dense_terms(problem, z, cotangent_for(z), 3)
    assert_gradient(gradient(problem, phantom(3, damping=1)), pulled(problem, z, w))


short_anderson = partial(anderson, history=1)


@cache
def plainly_unrolled(solver):
    return gradient(PROBLEMS["tanh"], unrolled(), solver=solver, max_steps=7)


@pytest.mark.parametrize(
    ("solver", "every"),
    [(picard, 1), (picard, 3), (picard, 100), (short_anderson, 3)],
    ids=["picard, 1", "picard, 3", "picard, 100", "anderson, 3"],
)
def test_checkpoints_change_no_unrolled_gradient(solver, every):
    found = gradient(PROBLEMS["tanh"], unrolled(every), solver=solver, max_steps=7)
    assert_gradient(found, plainly_unrolled(solver), rtol=1e-12)


def temporary_bytes(adjoint, max_steps):
    """Peak temporary memory of the compiled gradient, as XLA plans it."""

    def loss(weight, offset):
        def f(z, weight, offset):
            return jnp.tanh(z @ weight + offset)

        z0 = jnp.zeros_like(offset)
        return jnp.sum(
            dq.fixed_point(
                f, z0, weight, offset, solver=picard, adjoint=adjoint, max_steps=max_steps
            ).value
        )

    shapes = jax.ShapeDtypeStruct((32, 32), jnp.float32), jax.ShapeDtypeStruct((8, 32), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_checkpoints_save_memory():
    assert temporary_bytes(unrolled(14), 200) < 0.3 * temporary_bytes(unrolled(), 200)


@pytest.mark.parametrize(
    "adjoint", [jacobian_free(), neumann(5), phantom(5)], ids=["free", "neumann", "phantom"]
)
def test_memory_does_not_grow_with_the_steps(adjoint):
    sizes = [temporary_bytes(adjoint, steps) for steps in (10, 200)]
    assert sizes[0] == sizes[1] > 0


# A line per sample, z = gain z + offset: w is the gradient in the offset, sample by sample. Ten
# backward Picard steps solve the first two to 1e-6, not the third; the last overflows.
GAINS = np.array([0.1, 0.2, 0.8, -1e150])
STEPS, TOL = 10, 1e-6
HEALTHY, FAILED = [0, 1], [2, 3]


def adjoint_states(**policy):
    """Each sample's w for the cotangent 1, and the backward report."""
    w, report = compiled_adjoint_states(**policy)
    return np.asarray(w)[:, 0], report


@partial(jax.jit, static_argnames=("fallback", "on_failure"))
def compiled_adjoint_states(**policy):
    gain = jnp.asarray(GAINS)[:, None]

    def loss(offset, probe):
        solution = dq.fixed_point(
            lambda z, offset: gain * z + offset,
            jax.lax.stop_gradient(offset) / (1 - gain),
            offset,
            solver=picard,
            adjoint=implicit(picard, tol=TOL, max_steps=STEPS, **policy),
            probe=probe,
        )
        return solution.value.sum()

    offset = jnp.asarray([[1.0], [2.0], [-1.0], [0.5]])
    return jax.grad(loss, argnums=(0, 1))(offset, dq.backward_probe(4))


def test_a_failed_sample_keeps_its_best_by_default():
    w, report = adjoint_states()
    # ten steps from v are eleven terms; the sample that overflows has v alone
    terms = [(1 - 0.8**11) / (1 - 0.8), 1]
    np.testing.assert_allclose(w[FAILED], terms, rtol=1e-12)
    np.testing.assert_allclose(w[HEALTHY], 1 / (1 - GAINS[HEALTHY]), rtol=1e-5)
    statuses = [Status.CONVERGED, Status.CONVERGED, Status.STEP_LIMIT, Status.DIVERGED]
    np.testing.assert_array_equal(report.status, statuses)


def test_the_fallback_gives_a_failed_sample_its_jacobian_free_adjoint():
    w, report = adjoint_states(fallback="jacobian_free")
    plain, plain_report = adjoint_states()
    np.testing.assert_array_equal(w[FAILED], 1)
    np.testing.assert_array_equal(w[HEALTHY], plain[HEALTHY])
    jax.tree.map(np.testing.assert_array_equal, report, plain_report)


def test_nan_marks_failed_samples_only():
    w, _ = adjoint_states(on_failure="nan")
    plain, _ = adjoint_states()
    np.testing.assert_array_equal(np.isnan(w), [False, False, True, True])
    np.testing.assert_array_equal(w[HEALTHY], plain[HEALTHY])


@pytest.mark.parametrize(
    ("acceptable", "failed"),
    [(0.0, [0, 1, 2, 3]), (1e-3, [2, 3]), (0.5, [3]), (np.inf, [3])],
    ids=str,
)
def test_the_acceptable_residual_decides_what_failed(acceptable, failed):
    w, _ = adjoint_states(on_failure="nan", acceptable=acceptable)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(w)), failed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fallback": "jacobian_free", "on_failure": "nan"}, "choose one"),
        ({"fallback": "neumann"}, "fallback must be 'jacobian_free' or None, got 'neumann'"),
        ({"on_failure": "raise"}, "on_failure must be 'bound', 'keep' or 'nan', got 'raise'"),
        ({"acceptable": -1.0}, "acceptable must be zero or positive, got -1.0"),
    ],
    ids=["conflict", "fallback", "on_failure", "acceptable"],
)
def test_wrong_policies_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        implicit(**options)


def probe_of(adjoint, v):
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(float)

    def loss(probe):
        solution = dq.fixed_point(
            problem.f, z0, *args, solver=picard, adjoint=adjoint, tol=1e-13, max_steps=400,
            probe=probe,
        )  # fmt: skip
        return inner(v, solution.value)

    return jax.jit(jax.grad(loss))(dq.backward_probe(len(z0)))


@pytest.mark.parametrize(
    ("adjoint", "terms"), [(jacobian_free(), 1), (neumann(4), 4)], ids=["free", "neumann"]
)
def test_a_probe_measures_how_far_a_series_is_from_its_limit(adjoint, terms):
    problem = PROBLEMS["tanh"]
    v = cotangent_for(problem.solution)
    report = probe_of(adjoint, v)
    w, image = (dense_terms(problem, problem.solution, v, n) for n in (terms, terms + 1))
    expected = np.linalg.norm(image - w, axis=1) / np.linalg.norm(image, axis=1)
    np.testing.assert_array_equal(report.steps, terms - 1)
    np.testing.assert_allclose(report.residual, expected, rtol=1e-6)
    assert (report.status == Status.NOT_RUN).all()


def test_a_probe_of_phantom_counts_its_loop():
    report = probe_of(phantom(4), cotangent_for(PROBLEMS["tanh"].solution))
    np.testing.assert_array_equal(report.steps, 4)
    np.testing.assert_array_equal(report.residual, 0)
    assert (report.status == Status.NOT_RUN).all()


@pytest.mark.parametrize(
    "adjoint", [jacobian_free(), neumann(3), phantom(3)], ids=["free", "neumann", "phantom"]
)
def test_a_broken_cotangent_shows_in_its_sample_alone(adjoint):
    v = cotangent_for(PROBLEMS["tanh"].solution).at[1].set(jnp.nan)
    status = probe_of(adjoint, v).status
    np.testing.assert_array_equal(status, np.where(np.arange(4) == 1, Status.DIVERGED, 0))


ROWS = (2, 4, 8)


def with_rows(solver=picard):
    return partial(solver, trajectory=ROWS)


def iterates(problem):
    """The Picard iterates after the chosen steps, in float64."""
    z0, args = problem.cast(float)
    states = [z0]
    for _ in range(max(ROWS)):
        states.append(evaluate(problem.f, states[-1], args))
    return [states[step] for step in ROWS]


@NAMES
@pytest.mark.parametrize("adjoint", [implicit(), unrolled()], ids=["implicit", "unrolled"])
def test_a_trajectory_shows_the_iterates(name, adjoint):
    problem = PROBLEMS[name]
    z0, args = problem.cast(float)

    @jax.jit
    def solve():
        return dq.fixed_point(
            problem.f, z0, *args, solver=with_rows(), adjoint=adjoint, tol=0.0, max_steps=8
        )

    rows = solve().trajectory
    for row, expected in enumerate(iterates(problem)):
        shown = jax.tree.map(lambda leaf, row=row: leaf[row], rows)
        np.testing.assert_allclose(ravel(shown), ravel(expected), rtol=1e-12, atol=1e-14)


def test_a_row_of_anderson_is_a_solve_of_so_many_steps():
    solver = partial(anderson, history=2)
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(float)

    @partial(jax.jit, static_argnames="solver")
    def solve(solver, max_steps):
        return dq.fixed_point(problem.f, z0, *args, solver=solver, tol=0.0, max_steps=max_steps)

    rows = solve(with_rows(solver), 8).trajectory
    for row, step in zip(rows, ROWS, strict=True):
        np.testing.assert_allclose(row, solve(solver, step).value, rtol=1e-9)


def row_cotangents(problem):
    return [cotangent_for(problem.solution, seed) for seed in range(len(ROWS))]


def on_rows(problem):
    """A loss that weighs each row of the trajectory, and not the value."""
    cotangents = row_cotangents(problem)
    return lambda solution: sum(
        inner(v, jax.tree.map(lambda leaf, row=row: leaf[row], solution.trajectory))
        for row, v in enumerate(cotangents)
    )


ADJOINT_STATES = {
    "jacobian_free": (jacobian_free(), lambda problem, z, v: ravel(v)),
    "neumann": (neumann(3), partial(dense_terms, terms=3)),
    "implicit": (implicit(picard, tol=1e-13, max_steps=400), dense_limit),
}


@pytest.mark.parametrize("name", ["tanh", "dict"])
@pytest.mark.parametrize(("adjoint", "adjoint_state"), ADJOINT_STATES.values(), ids=ADJOINT_STATES)
def test_a_row_differentiates_as_if_it_were_the_fixed_point(name, adjoint, adjoint_state):
    problem = PROBLEMS[name]
    found = gradient(problem, adjoint, solver=with_rows(), max_steps=8, product=on_rows(problem))
    parts = [
        pulled(problem, z, adjoint_state(problem, z, v))
        for z, v in zip(iterates(problem), row_cotangents(problem), strict=True)
    ]
    assert_gradient(found, [sum(leaves) for leaves in zip(*parts, strict=True)])


def test_a_row_under_phantom_starts_the_damped_loop():
    problem = PROBLEMS["tanh"]
    found = gradient(
        problem, phantom(3, 0.4), solver=with_rows(), max_steps=8, product=on_rows(problem)
    )
    parts = [
        looped_gradient(problem, z, 3, 0.4, v)
        for z, v in zip(iterates(problem), row_cotangents(problem), strict=True)
    ]
    assert_gradient(found, [sum(leaves) for leaves in zip(*parts, strict=True)])


def test_a_row_under_unrolled_differentiates_exactly():
    problem = PROBLEMS["tanh"]
    found = gradient(
        problem, unrolled(3), solver=with_rows(), max_steps=8, product=on_rows(problem)
    )
    z0, args = problem.cast(float)

    def by_hand(args):
        return sum(
            inner(v, damped_loop(problem, z0, args, step, 1))
            for step, v in zip(ROWS, row_cotangents(problem), strict=True)
        )

    assert_gradient(found, jax.jit(jax.grad(by_hand))(args), rtol=1e-12)


def test_the_value_and_the_rows_add_up():
    problem = PROBLEMS["tanh"]
    v = cotangent_for(problem.solution)
    solve = partial(gradient, problem, jacobian_free(), solver=with_rows(), max_steps=8)
    rows, value = solve(product=on_rows(problem)), solve()
    both = solve(product=lambda s: on_rows(problem)(s) + inner(v, s.value))
    assert_gradient(both, [a + b for a, b in zip(rows, value, strict=True)], rtol=1e-12)


def test_rows_after_the_end_show_where_a_sample_stopped():
    gain = jnp.array([[0.1], [0.9]])

    @jax.jit
    def solve():
        solver = partial(picard, trajectory=(1, 4, 50))
        return dq.fixed_point(
            lambda z: gain * z + 1, jnp.zeros((2, 1)), solver=solver, tol=2e-2, max_steps=10
        )

    solution = solve()
    # z_k = 1 + ... + gain^(k-1); the first sample stops after 2 steps, the second after 10
    np.testing.assert_array_equal(solution.stats.steps, [2, 10])
    powers = {steps: (1 - np.asarray(gain)[:, 0] ** steps) / (1 - np.asarray(gain)[:, 0])
              for steps in (1, 2, 4, 10)}  # fmt: skip
    expected = [powers[1], [powers[2][0], powers[4][1]], [powers[2][0], powers[10][1]]]
    np.testing.assert_allclose(solution.trajectory[:, :, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("adjoint", [implicit(), unrolled()], ids=["implicit", "unrolled"])
def test_rows_of_a_diverged_sample_are_finite(adjoint):
    @jax.jit
    def solve():
        # the image of the second sample's next iterate, 1e240, is infinite
        z0 = jnp.array([[0.5, 0.5], [1e120, 1e120]])
        solver = partial(picard, trajectory=(1, 2, 5, 9))
        return dq.fixed_point(
            lambda z: z**2, z0, solver=solver, adjoint=adjoint, tol=0.0, max_steps=9
        )

    solution = solve()
    assert solution.stats.status[1] == Status.DIVERGED
    assert np.isfinite(solution.trajectory).all()
    np.testing.assert_allclose(solution.trajectory[:2, 0, 0], [0.25, 0.0625])
    np.testing.assert_array_equal(solution.trajectory[:, 1], 1e120)


FLOAT32_RULES = {
    "jacobian_free": (jacobian_free(), partial(dense_terms, terms=1)),
    "neumann": (neumann(4), partial(dense_terms, terms=4)),
    "phantom": (phantom(4, 1.0), partial(dense_terms, terms=4)),
    "unrolled": (unrolled(), dense_limit),
    "implicit": (implicit(picard, tol=1e-6, max_steps=100), dense_limit),
}


@pytest.mark.parametrize(("adjoint", "adjoint_state"), FLOAT32_RULES.values(), ids=FLOAT32_RULES)
def test_a_dict_state_in_float32_with_a_loss_on_one_leaf(adjoint, adjoint_state):
    problem = PROBLEMS["dict"]
    v = {name: np.zeros_like(leaf) for name, leaf in problem.solution.items()}
    v["image"] = np.ones_like(v["image"])
    expected = pulled(problem, problem.solution, adjoint_state(problem, problem.solution, v))
    with jax.enable_x64(False):
        found = gradient(
            problem,
            adjoint,
            dtype=jnp.float32,
            max_steps=60,
            product=lambda solution: jnp.sum(solution.value["image"]),
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    assert_gradient(jax.tree.map(np.asarray, found), expected, rtol=2e-5)
