"""FLOP of traced programs, counted by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from deqjax.nn import convolve
from deqjax.training.estimate._arithmetic import arithmetic
from deqjax.training.estimate._limits import Limits
from deqjax.training.estimate._parts import part_of

LIMITS = Limits(forward=11, backward=7, penalized=0.25)
X, W = jnp.ones((6, 4)), jnp.ones((4, 4))
PRODUCT = 2 * 6 * 4 * 4


def flop(function, *arguments):
    return arithmetic(jax.make_jaxpr(function)(*arguments), LIMITS)


def until(function, x):
    """A loop of unknown length."""
    return lax.while_loop(lambda x: jnp.isfinite(x[0, 0]), function, x)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x @ W, PRODUCT),
        (lambda x: jnp.tanh(x + 1).T.reshape(-1)[::2], 2 * 24),
        (jnp.sum, 24),
        (jax.jit(lambda x: x @ W), PRODUCT),
        (lambda x: lax.scan(lambda x, _: (x @ W, None), x, length=5)[0], 5 * PRODUCT),
        (lambda x: lax.cond(x[0, 0] > 0, lambda x: x @ W @ W, lambda x: x @ W, x), 2 * PRODUCT),
        (lambda x: (x @ W, [jnp.sin(x) @ W for _ in "dead"])[0], PRODUCT),
        (lambda x: lax.split(x, (1, x.shape[0] - 1))[1] @ W, PRODUCT * 5 // 6),
        (lambda x: jax.device_put(x) @ W, PRODUCT),
        (lambda x: x.at[0].set(1.0), 0),
        (lambda x: x.at[jnp.array([0, 2])].add(x[:2]), 2 * 4),
    ],
)
def test_each_operation_counts(function, expected):
    assert flop(function, X).total() == expected


@pytest.mark.parametrize(("groups", "strides"), [(1, 1), (2, 1), (1, 2)])
def test_convolutions(groups, strides):
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4 // groups, 6))

    def convolved(x):
        return lax.conv_general_dilated(
            x,
            kernel,
            (strides, strides),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    numbers = 2 * (8 // strides) ** 2 * 6
    assert flop(convolved, x).total() == 2 * numbers * 9 * 4 // groups


def test_convolutions_of_our_own_layers():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))
    products = 2 * 8 * 8 * 6 * 9 * 4 * 2
    assert flop(convolve, x, kernel).total() == products
    # its gradient in the image is as long again
    pulled = flop(jax.grad(lambda x: jnp.sum(convolve(x, kernel) ** 2)), x).total()
    assert 2 * products <= pulled < 2.1 * products
    # at a stride of two a quarter of it, and so is the gradient, whose zeros are left out
    strided = functools.partial(convolve, kernel=kernel, stride=2)
    assert flop(strided, x).total() == products / 4
    pulled = flop(jax.grad(lambda x: jnp.sum(strided(x) ** 2)), x).total()
    assert products / 2 <= pulled < 0.55 * products


def test_parts_and_loops():
    def loss(x):
        z = lax.stop_gradient(until(lambda x: x @ W, x))
        with jax.named_scope("penalty"):
            penalty = lax.cond(z[0, 0] > 0, lambda: jnp.sum(x @ W), lambda: 0.0)
        return jnp.sum(z @ W * x) + penalty

    def step(x):
        gradient = jax.grad(loss)(x)
        with jax.named_scope("optimizer"):
            return x - gradient

    found = flop(step, X)
    assert 0 <= found["forward"] - 12 * PRODUCT < PRODUCT
    # its gradient is another product
    assert 0 <= found["penalty"] - 0.25 * 2 * PRODUCT < PRODUCT / 4
    assert found["optimizer"] == 24
    assert 0 < found["backward"] < PRODUCT


def test_a_loop_in_a_loop_of_unknown_length_counts_once():
    def nested(x):
        return until(lambda x: until(lambda x: x @ W, x), lax.stop_gradient(x))

    assert flop(nested, X)["rest"] == PRODUCT
    forward = flop(lambda x: jax.jvp(nested, (x,), (x,))[0], X)["forward"]
    assert forward == 11 * PRODUCT


def test_each_device_of_a_mapped_axis_counts():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    rows = PartitionSpec("data")
    mapped = jax.shard_map(lambda x: x @ W, mesh=mesh, in_specs=rows, out_specs=rows)
    assert flop(mapped, X).total() == PRODUCT
    whole = PartitionSpec()
    same = jax.shard_map(lambda x: x @ W, mesh=mesh, in_specs=whole, out_specs=whole)
    assert flop(same, X).total() == 2 * PRODUCT


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("jit(step)/shard_map/jvp()/while/body/dot_general", "forward"),
        ("jit(step)/transpose(jvp())/while/body/jvp()/add", "backward"),
        # a solver's own pull-back, on the way forward
        ("jit(step)/jvp(Model)/while/body/transpose(jvp())/mul", "forward"),
        ("jit(step)/transpose(jvp(penalty))/cond/branch_1_fun/mul", "penalty"),
        ("jit(step)/jvp(penalty)/reduce_sum", "penalty"),
        ("jit(step)/optimizer/mul", "optimizer"),
        ("jit(step)/shard_map/psum", "rest"),
        ("", "rest"),
    ],
)
def test_names_tell_parts(name, part):
    assert part_of(name) == part
