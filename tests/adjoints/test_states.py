"""Any state for any adjoint: pytrees, a loss on one leaf, low precision, integers and keys."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.adjoints import implicit, unrolled
from deqjax.solvers import anderson, picard

pytestmark = pytest.mark.usefixtures("strict_promotion")

RULES = {
    "implicit": implicit(solver=partial(anderson, history=2)),
    "unrolled": unrolled(),
    "implicit by picard": implicit(solver=picard),
}
ADJOINTS = pytest.mark.parametrize("adjoint", RULES.values(), ids=RULES)
# what is no matter of the backward solver
BOTH = pytest.mark.parametrize("adjoint", list(RULES.values())[:2], ids=list(RULES)[:2])


def fixed_point(f, z0, *args, adjoint, tol=1e-6, max_steps=60):
    """Solved by Picard iteration, whose compilation is the cheapest."""
    return dq.fixed_point(
        f, z0, *args, solver=picard, adjoint=adjoint, tol=tol, max_steps=max_steps
    )


class Pair(NamedTuple):
    first: jax.Array
    second: jax.Array


BUILDERS = {
    "array": lambda a, b: jnp.concatenate([a, b.reshape(len(b), -1)], axis=1),
    "dict": lambda a, b: {"a": a, "b": b},
    "tuple": lambda a, b: (a, b),
    "named tuple": Pair,
    "nested": lambda a, b: {"x": [a, {"y": (b, None)}]},
}


def coupled(state, weight, offset):
    """Every leaf depends on every other through the mean of all; contracts for weight < 1."""
    leaves, structure = jax.tree.flatten(state)
    means = [leaf.reshape(len(leaf), -1).mean(axis=1) for leaf in leaves]
    center = sum(means) / len(means)
    new = [
        jnp.tanh(weight * (0.5 * leaf + center.reshape(-1, *(1,) * (leaf.ndim - 1)) + (0.1 * i)))
        + offset * 0.3
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, new)


WEIGHT, OFFSET = np.float32(0.6), np.float32(0.4)


def start(builder):
    return builder(jnp.zeros((3, 2)), jnp.zeros((3, 2, 2)))


@cache
def unrolled_by_hand(builder):
    """Gradients of a loss on the first leaf alone."""

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradient(weight, offset):
        def step(z, _):
            return coupled(z, weight, offset), None

        z = jax.lax.scan(step, start(builder), length=80)[0]
        return jnp.sum(jnp.sin(jax.tree.leaves(z)[0]))

    return gradient(WEIGHT, OFFSET)


@ADJOINTS
@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
def test_a_loss_on_one_leaf_in_float32(builder, adjoint):
    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradient(weight, offset):
        z = fixed_point(coupled, start(builder), weight, offset, adjoint=adjoint).value
        return jnp.sum(jnp.sin(jax.tree.leaves(z)[0]))

    np.testing.assert_allclose(gradient(WEIGHT, OFFSET), unrolled_by_hand(builder), rtol=1e-4)


@cache
def mixed_gradient(state, inner, adjoint):
    """Of a layer that computes in the inner dtype."""

    def f(z, weight, offset):
        weight, offset = weight.astype(inner), offset.astype(inner)
        return jnp.tanh(weight * z.astype(inner) + offset).astype(state)

    def loss(weight, offset):
        z0 = jnp.zeros((4, 3), state)
        solution = fixed_point(f, z0, weight, offset, adjoint=adjoint, tol=1e-2)
        assert solution.stats.residual.dtype == jnp.float32
        return jnp.sum(solution.value.astype(jnp.float32))

    return jax.jit(jax.grad(loss))(jnp.float32(0.5), jnp.float32(0.3))


@ADJOINTS
@pytest.mark.parametrize("state", ["bfloat16", "float32"])
def test_a_bfloat16_layer_has_finite_gradients_close_to_float32(state, adjoint):
    found = mixed_gradient(state, "bfloat16", adjoint)
    expected = mixed_gradient("float32", "float32", adjoint)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0.1)


@BOTH
def test_leaves_of_different_precision_mix(adjoint):
    z0 = {"low": jnp.zeros((2, 3), jnp.bfloat16), "high": jnp.zeros((2, 3), jnp.float32)}

    def f(z, weight):
        low = jnp.tanh(weight * z["high"] + 0.3)
        return {"low": low.astype(jnp.bfloat16), "high": weight * z["low"].astype(jnp.float32)}

    def loss(weight):
        return fixed_point(f, z0, weight, adjoint=adjoint, tol=1e-2).value["high"].sum()

    assert np.isfinite(jax.jit(jax.grad(loss))(jnp.float32(0.5)))


@BOTH
def test_a_leaf_without_features_is_carried(adjoint):
    z0 = {"empty": jnp.zeros((2, 0)), "full": jnp.zeros((2, 3))}

    def loss(weight):
        def f(z, weight):
            return jax.tree.map(lambda x: weight * x + 1, z)

        return fixed_point(f, z0, weight, adjoint=adjoint).value["full"].sum()

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(jnp.float32(0.5)), 24, rtol=1e-3)


KEYS = pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])


def masked(z, weight, key, index):
    """A dropout mask and a table look-up, drawn inside f from a key and integers."""
    mask = jax.random.bernoulli(key, 0.5, z.shape).astype(z.dtype)
    return weight * mask * z + jnp.take(jnp.arange(4.0), index)[:, None]


@BOTH
@KEYS
@pytest.mark.parametrize("closed_over", [False, True], ids=["args", "closure"])
def test_integers_and_keys_pass_through(make_key, closed_over, adjoint):
    z0, index = jnp.zeros((4, 3)), jnp.array([3, 1, 2, 0])

    def loss(weight, key, index):
        if closed_over:
            f, args = (lambda z: masked(z, weight, key, index)), ()
        else:
            f, args = masked, (weight, key, index)
        return fixed_point(f, z0, *args, adjoint=adjoint).value.sum()

    gradient = jax.jit(jax.grad(loss))(jnp.float32(0.5), make_key(7), index)
    mask = np.asarray(jax.random.bernoulli(make_key(7), 0.5, (4, 3)))
    # z = w m z + c: dz/dw = m c / (1 - w m)^2
    expected = (mask * np.array([3, 1, 2, 0])[:, None] / 0.25).sum()
    np.testing.assert_allclose(gradient, expected, rtol=1e-3)
