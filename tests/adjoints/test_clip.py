"""A bound on the pulled-back cotangent, against the recurrence written out in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.adjoints import neumann, phantom
from deqjax.solvers import picard

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

rng = np.random.default_rng(0)
MATRIX = 0.5 * rng.normal(size=(6, 6))
OFFSET = rng.normal(size=(4, 6))
V = rng.normal(size=(4, 6)) * np.array([[1.0], [1e-3], [1e5], [0.0]])
STATE = np.linalg.solve(np.eye(6) - MATRIX, OFFSET.T).T


def affine(z, matrix, offset):
    """On a dict state: the bound is one of all leaves together."""
    both = jnp.concatenate([z["a"], z["b"]], axis=1) @ matrix.T + offset
    return {"a": both[:, :2], "b": both[:, 2:]}


def gradient(adjoint, offset=OFFSET, matrix=MATRIX):
    def loss(offset):
        start = jax.lax.stop_gradient(jnp.asarray(STATE))
        solution = dq.fixed_point(
            affine, {"a": start[:, :2], "b": start[:, 2:]}, matrix, offset, solver=picard,
            adjoint=adjoint, tol=1e-6, max_steps=1,
        )  # fmt: skip
        return jnp.sum(jnp.concatenate(list(solution.value.values()), axis=1) * V)

    return jax.grad(loss)(offset)


def cut(pulled, clip):
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.linalg.norm(V, axis=1) * clip / np.linalg.norm(pulled, axis=1)
    return pulled * np.where(factor < 1, factor, 1)[:, None]  # NaN: nothing to cut


def neumann_sum(terms, clip):
    w = V
    for _ in range(terms - 1):
        w = V + cut(w @ MATRIX, clip)
    return w


def damped_sum(steps, damping, clip):
    bar, total = V, np.zeros_like(V)
    for _ in range(steps):
        total = total + damping * bar
        bar = cut((1 - damping) * bar + damping * bar @ MATRIX, clip)
    return total


@pytest.fixture(scope="module")
def compiled():
    """One program for all bounds, which is a run-time value."""
    return {
        "neumann": jax.jit(lambda clip: gradient(neumann(4, clip=clip))),
        "phantom": jax.jit(lambda clip: gradient(phantom(3, 0.7, clip=clip))),
    }


@pytest.mark.parametrize("clip", [0.0, 0.4, 1.1, np.inf])
def test_each_product_is_cut_per_sample(compiled, clip):
    with jax.enable_x64(True):
        found = compiled["neumann"](clip), compiled["phantom"](clip)
    expected = neumann_sum(4, clip), damped_sum(3, 0.7, clip)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)
    lengths = np.linalg.norm(found[0], axis=1)
    most = (1 + min(clip, 1e9)) * np.linalg.norm(V, axis=1)
    assert (lengths <= most * (1 + 1e-12)).all()


def test_some_of_these_are_cut_and_some_are_not():
    pulled = np.linalg.norm(V[:3] @ MATRIX, axis=1) / np.linalg.norm(V[:3], axis=1)
    assert (pulled > 0.4).all()
    assert (pulled < 1.1).any()
    assert not np.allclose(neumann_sum(4, 1.1), neumann_sum(4, np.inf))


def test_no_bound_is_the_plain_series():
    np.testing.assert_allclose(jax.jit(partial(gradient, neumann(4)))(), neumann_sum(4, np.inf))


def test_two_terms_are_two_undamped_steps():
    one, other = (
        jax.jit(partial(gradient, adjoint))()
        for adjoint in (neumann(2, clip=0.4), phantom(2, 1.0, clip=0.4))
    )
    np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize(
    "adjoint", [neumann(3, clip=0.4), phantom(3, 0.7, clip=0.4)], ids=["neumann", "phantom"]
)
def test_the_cut_gradient_can_be_differentiated(adjoint):
    """Through a matrix that the gradient depends on, in a sample that is cut and one of zeros."""

    @jax.jit
    def along(scale):
        # a multiple of the matrix would turn nothing that is cut
        found = gradient(adjoint, matrix=jnp.asarray(MATRIX) + scale * jnp.eye(6))
        return jnp.sum(jnp.sin(found / jnp.asarray([[1.0], [1e-3], [1e5], [1.0]])))

    step = 1e-5
    difference = (along(step) - along(-step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), difference, rtol=1e-7)


@pytest.mark.parametrize("rule", [neumann, phantom])
@pytest.mark.parametrize("clip", [-0.1, np.nan])
def test_a_bound_below_zero_is_refused(rule, clip):
    with pytest.raises(ValueError, match="clip must be zero or positive, got"):
        rule(2, clip=clip)


def test_a_cotangent_that_is_not_finite_stays_so():
    adjoint = neumann(3, clip=0.4)

    def loss(offset, probe):
        solution = dq.fixed_point(
            lambda z, offset: z * 1e200 + offset, jnp.zeros((2, 1)), offset, solver=picard,
            adjoint=adjoint, tol=1.0, max_steps=1, probe=probe,
        )  # fmt: skip
        return jnp.sum(solution.value * jnp.array([[1.0], [jnp.nan]]))

    _, report = jax.grad(loss, argnums=(0, 1))(jnp.ones((2, 1)), dq.backward_probe(2))
    assert report.status[1] == dq.Status.DIVERGED
