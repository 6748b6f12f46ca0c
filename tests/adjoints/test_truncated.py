"""Truncated backpropagation against loops written out with `lax.scan`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deqjax as dq
from deqjax import Status
from deqjax.adjoints import truncated
from deqjax.solvers import anderson, broyden, newton_krylov, picard, reversible

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

plain = partial(picard, returns="last")
rng = np.random.default_rng(0)
WEIGHTS, INPUT = 0.4 * rng.normal(size=(5, 5)), rng.normal(size=(3, 5))


def layer(z, weights, x):
    return jnp.tanh(z @ weights + x)


def close(found, expected, tol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tol, atol=tol), found, expected)


def solve(weights, *, adjoint, solver=plain, tol=0.0, max_steps=4, **options):
    z0, x = jnp.zeros((3, 5)), jnp.asarray(INPUT)
    return dq.fixed_point(
        layer, z0, weights, x, solver=solver, adjoint=adjoint, tol=tol, max_steps=max_steps,
        **options,
    )  # fmt: skip


def loop(weights, before, steps, damping=1.0):
    """``before`` steps without gradient, then damped ones."""
    x = jnp.asarray(INPUT)

    def body(z, _, weights, damping):
        return (1 - damping) * z + damping * layer(z, weights, x), None

    held = partial(body, weights=lax.stop_gradient(weights), damping=1.0)
    z, _ = lax.scan(held, jnp.zeros((3, 5)), length=before)
    return lax.scan(partial(body, weights=weights, damping=damping), z, length=steps)[0]


def with_gradient(function):
    return jax.jit(jax.value_and_grad(lambda w: jnp.sum(jnp.sin(function(w)))))(WEIGHTS)


@pytest.mark.parametrize(("steps", "damping"), [(1, 1.0), (3, 0.7)])
def test_it_is_the_loop_with_a_gradient_of_its_last_steps(steps, damping):
    adjoint = truncated(steps, damping=damping)
    found = with_gradient(lambda w: solve(w, adjoint=adjoint).value)
    close(found, with_gradient(lambda w: loop(w, 4, steps, damping)))


def test_steps_drawn_at_run_time_compile_once_and_change_nothing_else():
    @jax.jit
    def drawn(steps):
        def value(w):
            solution = solve(w, adjoint=truncated(steps, most=3))
            return jnp.sum(jnp.sin(solution.value)), solution

        (_, solution), gradient = jax.value_and_grad(value, has_aux=True)(jnp.asarray(WEIGHTS))
        return solution.value, gradient, solution.stats

    for steps in (1, 3):
        value, gradient, stats = drawn(steps)
        expected = with_gradient(lambda w, n=steps: loop(w, 4, n))
        close((jnp.sum(jnp.sin(value)), gradient), expected)
        assert (stats.steps == 4 + steps).all()
        assert stats.evaluations == 5 + steps + 1
    assert drawn._cache_size() == 1
    # a step that is not taken leaves no trace: what comes after k steps of 3 is k steps, bit by bit
    untaken, _, _ = drawn(0)
    np.testing.assert_array_equal(untaken, jax.jit(lambda: solve(WEIGHTS, adjoint=None).value)())
    beyond, _, stats = drawn(9)
    np.testing.assert_array_equal(beyond, drawn(3)[0])
    assert stats.evaluations == 9


def test_forward_mode_and_second_derivatives():
    direction = jnp.asarray(rng.normal(size=(5, 5)))

    def derivatives(function):
        def loss(w):
            return jnp.sum(jnp.sin(function(w)))

        def both(w):
            forward = jax.jvp(loss, (w,), (direction,))[1]
            along = jax.jvp(jax.grad(loss), (w,), (direction,))[1]
            back = jax.grad(lambda w: jnp.sum(jax.grad(loss)(w) * direction))(w)
            return forward, along, back

        return jax.jit(both)(jnp.asarray(WEIGHTS))

    found = derivatives(lambda w: solve(w, adjoint=truncated(2)).value)
    close(found, derivatives(lambda w: loop(w, 4, 2)))
    close(found[1], found[2])


SOLVERS = [plain, partial(anderson, history=2), partial(broyden, rank=2), newton_krylov, reversible]


@pytest.mark.parametrize("solver", SOLVERS, ids=["picard", "anderson", "broyden", "newton", "rev"])
def test_it_goes_on_from_what_any_solver_returns(solver):
    @jax.jit
    def compare(w):
        solved = solver(lambda z: layer(z, w, jnp.asarray(INPUT)), jnp.zeros((3, 5)), tol=1e-2,
                        max_steps=4)  # fmt: skip

        def ours(w):
            found = solve(w, adjoint=truncated(2), solver=solver, tol=1e-2)
            return jnp.sum(jnp.sin(found.value)), found.stats

        def theirs(w):
            z = lax.stop_gradient(solved.value)
            for _ in range(2):
                z = layer(z, w, jnp.asarray(INPUT))
            return jnp.sum(jnp.sin(z)), z

        return (
            jax.value_and_grad(ours, has_aux=True)(w),
            jax.value_and_grad(theirs, has_aux=True)(w),
            solved.stats,
        )

    (value, stats), gradient = (found := compare(jnp.asarray(WEIGHTS)))[0]
    (expected, end), expected_gradient = found[1]
    close((value, gradient), (expected, expected_gradient))
    np.testing.assert_array_equal(stats.steps, found[2].steps + 2)
    assert stats.evaluations == found[2].evaluations + 3
    image = np.tanh(end @ WEIGHTS + INPUT)
    residual = np.linalg.norm(image - end, axis=1) / np.linalg.norm(image, axis=1)
    close(stats.residual, residual, 1e-9)
    reached = np.where(residual <= 1e-2, Status.CONVERGED, Status.STEP_LIMIT)
    np.testing.assert_array_equal(stats.status, reached)


def test_the_solvers_own_measure_and_the_rows_of_its_trajectory():
    solver = partial(picard, stop="absolute", trajectory=(1, 3))

    def loss(w):
        solution = solve(w, adjoint=truncated(1), solver=solver, tol=1e-3)
        return jnp.sum(solution.trajectory), solution

    gradient, solution = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(WEIGHTS))
    np.testing.assert_array_equal(gradient, 0)
    rows = [jax.jit(partial(loop, steps=0), static_argnums=1)(WEIGHTS, n) for n in (1, 3)]
    close(solution.trajectory, np.stack(rows))
    end = np.asarray(solution.value)
    change = np.linalg.norm(np.tanh(end @ WEIGHTS + INPUT) - end, axis=1)
    close(solution.stats.residual, change, 1e-9)


def test_an_end_that_is_not_finite_says_so():
    def f(z):  # a large state has no image
        return jnp.where(jnp.abs(z) > 3, jnp.inf, 2 * z)

    solution = dq.fixed_point(
        f, jnp.array([[1.0], [0.0]]), solver=plain, adjoint=truncated(2), tol=0.0, max_steps=1
    )
    np.testing.assert_array_equal(solution.stats.status, [Status.DIVERGED, Status.CONVERGED])
    np.testing.assert_array_equal(solution.stats.residual, [np.inf, 0])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be a whole number"),
        ({"steps": 4, "most": 3}, ValueError, "steps must be at most most=3, got 4"),
        ({"steps": 4, "most": 0}, ValueError, "most must be at least 1, got 0"),
        ({"steps": 4, "most": 4.0}, TypeError, "most must be a Python int"),
        ({"steps": np.int64(4), "damping": -1.0}, ValueError, "damping must be zero or positive"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        truncated(**arguments)


def test_steps_that_are_traced_need_most():
    with pytest.raises(TypeError, match="give most, the largest number of steps"):
        jax.jit(truncated)(2)


def test_equal_rules_are_equal():
    assert truncated(3) == truncated(3, most=5)
    assert hash(truncated(3)) == hash(truncated(3))
    assert truncated(3) != truncated(3, damping=0.5)
