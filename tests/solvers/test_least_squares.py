"""Small least-squares problems, in the form for accelerators and in that for CPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.solvers._least_squares import solve_in_matrices, solve_in_vectors

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")


@jax.jit
def in_vectors(gram, right, ridge):
    size = right.shape[1]
    triangle = [[gram[:, i, j] for j in range(i + 1)] for i in range(size)]
    weights = solve_in_vectors(triangle, [right[:, i] for i in range(size)], ridge)
    return jnp.stack(weights, axis=1)


FORMS = {"vectors": in_vectors, "matrices": jax.jit(solve_in_matrices)}


@pytest.fixture(params=FORMS)
def compiled(request):
    return FORMS[request.param]


@pytest.fixture
def solve(compiled):
    def solution(matrix, target, ridge):
        gram = np.einsum("bni,bnj->bij", matrix, matrix)
        right = np.einsum("bni,bn->bi", matrix, target)
        return np.asarray(compiled(jnp.asarray(gram), jnp.asarray(right), ridge))

    return solution


def systems(batch=5, features=12, columns=4):
    """Random least-squares problems whose columns span ten orders of magnitude."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(batch, features, columns)) * np.logspace(-6, 4, columns)
    return matrix, rng.normal(size=(batch, features))


def least_squares(matrix, target):
    """By LAPACK, whose rank decision needs columns of one scale."""
    scale = np.linalg.norm(matrix, axis=0)
    return np.linalg.lstsq(matrix / scale, target, rcond=None)[0] / scale


def test_without_ridge_it_is_least_squares(solve):
    matrix, target = systems()
    weights = solve(matrix, target, 0.0)
    for a, y, w in zip(matrix, target, weights, strict=True):
        np.testing.assert_allclose(w, least_squares(a, y), rtol=1e-9)


def test_the_ridge_is_relative_to_the_scale_of_each_column(solve):
    matrix, target = systems()
    weights = solve(matrix, target, 0.3)
    for a, y, w in zip(matrix, target, weights, strict=True):
        gram = a.T @ a
        expected = np.linalg.solve(gram + 0.3 * np.diag(np.diag(gram)), a.T @ y)
        np.testing.assert_allclose(w, expected, rtol=1e-9)


def test_a_column_of_zeros_gets_weight_zero(solve):
    matrix, target = systems()
    matrix[:, :, 1] = 0
    weights = solve(matrix, target, 0.0)
    kept = [0, 2, 3]
    np.testing.assert_array_equal(weights[:, 1], 0)
    np.testing.assert_allclose(
        weights[0, kept], least_squares(matrix[0][:, kept], target[0]), rtol=1e-9
    )


@pytest.mark.parametrize("angle", [0.0, 1e-6])
def test_a_column_in_the_span_of_those_before_is_left_out(solve, angle):
    matrix, target = systems()
    matrix[2, :, 2] = matrix[2, :, 0] * 2 + matrix[2, :, 1]
    away = angle * np.linalg.norm(matrix[2, :, 2]) / np.linalg.norm(target[0])
    matrix[2, :, 2] += away * target[0]
    weights = solve(matrix, target, 0.0)
    assert weights[2, 2] == 0
    kept = [0, 1, 3]
    expected = least_squares(matrix[2][:, kept], target[2])
    np.testing.assert_allclose(weights[2, kept], expected, rtol=1e-9)
    assert (np.delete(weights, 2, axis=0) != 0).all()


def test_a_column_at_a_larger_angle_is_taken(solve):
    matrix, target = systems()
    matrix[2, :, 2] = matrix[2, :, 0] * 2 + 1e-2 * np.linalg.norm(matrix[2, :, 0]) * target[0]
    expected = least_squares(matrix[2], target[2])
    np.testing.assert_allclose(solve(matrix, target, 0.0)[2], expected, rtol=1e-6)


def test_a_ridge_keeps_a_column_in_the_span_of_others(solve):
    matrix, target = systems()
    matrix[2, :, 3] = matrix[2, :, 0] * 2
    assert (solve(matrix, target, 1e-6) != 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_system_that_is_not_finite_says_so_and_touches_no_other(solve, compiled, bad):
    matrix, target = systems()
    clean = solve(matrix, target, 0.0)
    gram = np.einsum("bni,bnj->bij", matrix, matrix)
    right = np.einsum("bni,bn->bi", matrix, target)
    gram[1, 0, 2] = gram[1, 2, 0] = bad
    weights = compiled(jnp.asarray(gram), jnp.asarray(right), 0.0)
    assert not np.isfinite(weights[1]).all()
    np.testing.assert_array_equal(np.delete(weights, 1, axis=0), np.delete(clean, 1, axis=0))


def test_an_empty_history_has_weights_zero(solve):
    weights = solve(np.zeros((2, 3, 4)), np.ones((2, 3)), 0.0)
    np.testing.assert_array_equal(weights, 0)
