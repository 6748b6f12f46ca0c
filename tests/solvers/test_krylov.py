"""The batched GMRES kernel against LAPACK and against minimization over explicit Krylov spaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

from deqjax.solvers._krylov import solve_linear

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

BATCH, SIZE = 5, 7


def solve_once(matrices, right, tol=0.0, limit=99, size=SIZE, near=None):
    """One matrix per sample: (batch, n, n)."""

    def product(v):
        return jnp.einsum("bij,bj->bi", matrices, v, precision="highest")

    return solve_linear(product, right, tol=tol, limit=limit, size=size, near=near)


solve = jax.jit(solve_once, static_argnames="size")
# as users compile it: rounding is compared
solve_optimized = jax.jit(
    solve_once, static_argnames="size", compiler_options={"xla_backend_optimization_level": 3}
)


def systems(batch=BATCH, seed=0):
    rng = np.random.default_rng(seed)
    matrices = rng.normal(size=(batch, SIZE, SIZE)) + 4 * np.eye(SIZE)
    return jnp.asarray(matrices), jnp.asarray(rng.normal(size=(batch, SIZE)))


def dense(matrices, right):
    return np.stack([np.linalg.solve(a, b) for a, b in zip(matrices, right, strict=True)])


def relative_residual(matrices, right, x):
    rest = right - np.einsum("bij,bj->bi", matrices, x)
    return np.linalg.norm(rest, axis=1) / np.linalg.norm(right, axis=1)


def smallest_residual(matrix, right, dimension):
    """By LAPACK: least squares over an orthonormal basis of the explicit Krylov space."""
    vectors = [right]
    for _ in range(dimension - 1):
        vectors.append(matrix @ vectors[-1])
    basis, _ = np.linalg.qr(np.stack([v / np.linalg.norm(v) for v in vectors], axis=1))
    y = np.linalg.lstsq(matrix @ basis, right, rcond=None)[0]
    return np.linalg.norm(right - matrix @ basis @ y) / np.linalg.norm(right)


def test_a_full_space_solves_the_system():
    matrices, right = systems()
    found = solve(matrices, right)
    np.testing.assert_allclose(found.value, dense(matrices, right), rtol=1e-10)
    np.testing.assert_array_equal(found.steps, SIZE)
    assert found.products == SIZE


@pytest.mark.parametrize("dimension", range(1, SIZE))
def test_each_step_minimizes_over_the_krylov_space(dimension):
    matrices, right = systems()
    found = solve(matrices, right, limit=dimension)
    for i in range(BATCH):
        expected = smallest_residual(np.asarray(matrices[i]), np.asarray(right[i]), dimension)
        np.testing.assert_allclose(found.residual[i], expected, rtol=1e-9)
    np.testing.assert_allclose(
        found.residual, relative_residual(matrices, right, found.value), rtol=1e-9
    )


def test_the_space_may_be_smaller_than_the_limit():
    matrices, right = systems()
    found = solve(matrices, right, size=3)
    np.testing.assert_array_equal(found.steps, 3)
    np.testing.assert_array_equal(found.value, solve(matrices, right, limit=3, size=3).value)


def test_agrees_with_scipy_where_classical_orthogonalization_fails():
    # singular values from 1 to 1e-10: one pass of classical Gram-Schmidt loses orthogonality
    rng = np.random.default_rng(3)
    size = 30
    left, right_vectors = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    matrix = left @ np.diag(np.logspace(0, -10, size)) @ right_vectors
    right = matrix @ rng.normal(size=size)
    found = solve(jnp.asarray(matrix)[None], jnp.asarray(right)[None], size=size)
    history = []
    scipy.sparse.linalg.gmres(
        matrix, right, rtol=0, restart=size, maxiter=1, callback=history.append,
        callback_type="pr_norm",
    )  # fmt: skip
    np.testing.assert_allclose(found.value[0], np.linalg.solve(matrix, right), rtol=1e-2)
    true = relative_residual(matrix[None], right[None], np.asarray(found.value))
    assert true[0] < 1e-13
    assert min(history) < 1e-13


def test_each_sample_stops_at_its_own_tolerance_and_limit():
    matrices, right = systems()
    tol = jnp.array([0.9, 1e-1, 1e-9, 0.0, 0.0])
    limit = np.array([99, 99, 99, 2, 0], np.int32)
    found = solve(matrices, right, tol, limit)
    history = np.stack([solve(matrices, right, limit=k).residual for k in range(SIZE + 1)])
    for i in range(BATCH):
        enough = (history[:, i] <= tol[i]) | (np.arange(SIZE + 1) == min(limit[i], SIZE))
        steps = np.flatnonzero(enough)[0]
        assert int(found.steps[i]) == steps
        np.testing.assert_allclose(found.residual[i], history[steps, i], rtol=1e-9, atol=1e-13)
    assert len(np.unique(found.steps)) > 3
    assert found.products == found.steps.max()
    np.testing.assert_array_equal(found.value[4], 0)


def test_a_batch_is_its_samples_solved_alone():
    matrices, right = systems(batch=32)
    tol = jnp.asarray(np.logspace(-12, -0.5, 32))
    together = solve(matrices, right, tol)
    parts = [solve(matrices[i : i + 1], right[i : i + 1], tol[i : i + 1]) for i in range(32)]
    assert len(np.unique(together.steps)) > 3
    np.testing.assert_array_equal(together.steps, np.concatenate([p.steps for p in parts]))
    np.testing.assert_allclose(
        together.value, np.concatenate([p.value for p in parts]), rtol=1e-10, atol=1e-13
    )


def test_a_zero_right_hand_side_takes_no_step():
    matrices, right = systems()
    found = solve(matrices, right.at[2].set(0))
    np.testing.assert_array_equal(found.value[2], 0)
    np.testing.assert_array_equal(found.steps, [SIZE, SIZE, 0, SIZE, SIZE])
    assert solve(matrices, 0 * right).products == 0


def test_an_exhausted_space_ends_with_the_exact_solution():
    # the right-hand side is spanned by two eigenvectors
    basis = np.linalg.qr(np.random.default_rng(4).normal(size=(SIZE, SIZE)))[0]
    matrix = basis @ np.diag([2.0, -3.0, 1, 1, 1, 1, 1]) @ basis.T
    right = basis[:, :2].sum(axis=1)
    found = solve(jnp.asarray(matrix)[None], jnp.asarray(right)[None])
    np.testing.assert_array_equal(found.steps, 2)
    np.testing.assert_array_equal(found.residual, 0)
    np.testing.assert_allclose(found.value[0], np.linalg.solve(matrix, right), rtol=1e-12)


def test_the_identity_is_solved_in_one_step():
    _, right = systems()
    found = solve(jnp.broadcast_to(jnp.eye(SIZE), (BATCH, SIZE, SIZE)), right)
    np.testing.assert_array_equal(found.steps, 1)
    np.testing.assert_allclose(found.value, right, rtol=1e-14)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_singular_system_stays_finite(rank):
    matrices, right = systems()
    singular = np.zeros((SIZE, SIZE))
    singular[0, 0] = rank  # solves the first entry at best
    found = solve(matrices.at[1].set(jnp.asarray(singular)), right)
    assert np.isfinite(found.value).all()
    exact = dense(matrices, right)
    np.testing.assert_allclose(np.delete(found.value, 1, 0), np.delete(exact, 1, 0), rtol=1e-10)
    np.testing.assert_allclose(
        found.residual[1],
        relative_residual(singular[None], right[1:2], np.asarray(found.value[1:2]))[0],
        rtol=1e-10,
    )
    # GMRES in span(b, A b), not least squares over the whole space
    expected = smallest_residual(singular, np.asarray(right[1]), 1 + rank)
    np.testing.assert_allclose(found.residual[1], expected, rtol=1e-10)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["right", "matrix"])
def test_a_broken_sample_gets_a_finite_answer_and_changes_no_other(place, poison):
    matrices, right = systems()
    clean = solve(matrices, right)
    if place == "right":
        right = right.at[3, 0].set(poison)
    else:
        matrices = matrices.at[3, 2, 2].set(poison)
    found = solve(matrices, right)
    np.testing.assert_array_equal(found.value[3], 0)
    assert found.residual[3] == 1
    for new, old in zip(found[:3], clean[:3], strict=True):
        np.testing.assert_array_equal(np.delete(new, 3, 0), np.delete(old, 3, 0))


def test_a_late_nan_keeps_what_was_found_before():
    def product(v):
        # b = e_0, A b = 2 b + e_1: the second product is the first with a large entry 1
        image = 2 * v + jnp.roll(v, 1, axis=1)
        return jnp.where(jnp.abs(v[:, 1:2]) > 0.5, jnp.nan, image)

    right = jnp.eye(1, 4)
    found = jax.jit(lambda b: solve_linear(product, b, tol=0.0, limit=9, size=4))(right)
    np.testing.assert_array_equal(found.steps, 2)
    # least squares of |e_0 - y (2 e_0 + e_1)|
    np.testing.assert_allclose(found.value, [[0.4, 0, 0, 0]], rtol=1e-14)
    np.testing.assert_allclose(found.residual, np.sqrt(1 / 5), rtol=1e-14)


def test_near_measures_the_residual_against_the_updated_iterate():
    matrices, right = systems()
    near = 1e3 * jnp.asarray(np.random.default_rng(5).normal(size=right.shape))
    tol = 1e-4

    def ratio(x):
        rest = right - np.einsum("bij,bj->bi", matrices, x)
        return np.linalg.norm(rest, axis=1) / np.linalg.norm(near + x + rest, axis=1)

    found = solve(matrices, right, tol, near=near)
    assert (ratio(found.value) <= tol).all()
    previous = solve(matrices, right, limit=found.steps - 1)
    assert (ratio(previous.value) > tol).all()
    assert (found.steps < solve(matrices, right, tol).steps).any()


def test_near_counts_the_growth_of_the_iterate():
    # x is a hundred times b, and the start is zero
    matrices, right = systems()
    found = solve(matrices / 100, right, 1e-2, near=0 * right)
    exact = np.linalg.norm(dense(matrices / 100, right), axis=1)
    assert (found.residual * np.linalg.norm(right, axis=1) > 1e-3 * exact).any()
    assert (found.steps < solve(matrices / 100, right, 1e-4).steps).any()


def test_states_of_several_leaves():
    matrices, right = systems()

    def split(flat):
        return {"a": flat[:, :3], "b": flat[:, 3:].reshape(-1, 2, 2)}

    def join(state):
        return jnp.concatenate([state["a"], state["b"].reshape(-1, 4)], axis=1)

    def product(v):
        return split(jnp.einsum("bij,bj->bi", matrices, join(v), precision="highest"))

    @jax.jit
    def run(right):
        return solve_linear(product, split(right), tol=0.0, limit=9, size=SIZE).value

    np.testing.assert_allclose(join(run(right)), dense(matrices, right), rtol=1e-10)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_low_precision_sums_wide(dtype, error):
    rng = np.random.default_rng(6)
    matrix = 0.4 * np.linalg.qr(rng.normal(size=(256, 256)))[0]
    right = jnp.asarray(rng.normal(size=(2, 256)), dtype)

    @jax.jit
    def run(right):
        weights = jnp.asarray(matrix, dtype)
        return solve_linear(lambda v: v - v @ weights.T, right, tol=1e-5, limit=20, size=20)

    found = run(right)
    assert found.residual.dtype == jnp.float32
    assert found.value.dtype == dtype
    exact = np.linalg.solve(np.eye(256) - matrix, np.asarray(right, np.float64).T).T
    gap = np.linalg.norm(np.asarray(found.value, np.float64) - exact)
    assert gap < error * np.linalg.norm(exact)


def test_the_scale_of_the_right_hand_side_scales_the_solution():
    matrices, right = (x.astype(np.float32) for x in systems())
    plain = solve_optimized(matrices, right, 1e-5)
    small = solve_optimized(matrices, right * 2.0**-60, 1e-5)
    np.testing.assert_array_equal(small.value, plain.value * 2.0**-60)
