"""Maps with rounded products: at any depth of f, nothing else changed, weights rounded once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deqjax._core.hoist import hoist
from deqjax._core.narrow import narrowed

LOW = jnp.dtype(jnp.bfloat16)
WEIGHTS = 0.3 * jax.random.normal(jax.random.key(0), (8, 8))
Z = jax.random.normal(jax.random.key(1), (4, 8))
MESH = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
ROWS = jax.sharding.PartitionSpec("rows")


def rounded(a, b):
    return jnp.matmul(a.astype(LOW), b.astype(LOW)).astype(jnp.float32)


def full(a, b):
    return a @ b


# each written once, for either product
SHAPES = {
    "plain": lambda product: lambda z: jnp.tanh(product(z, WEIGHTS)),
    "jit": lambda product: jax.jit(lambda z: product(z, WEIGHTS / 2) + z),
    "checkpoint": lambda product: jax.checkpoint(lambda z: jnp.sin(product(z, WEIGHTS))),
    "scan": lambda product: (
        lambda z: lax.scan(lambda c, w: (product(c, w), None), z, jnp.stack([WEIGHTS, WEIGHTS.T]))[
            0
        ]
    ),
    "while": lambda product: lambda z: lax.fori_loop(0, 3, lambda _, c: product(c, WEIGHTS), z),
    "cond": lambda product: lambda z: lax.cond(z[0, 0] > 9, lambda z: z, full_or(product), z),
    "custom rule": lambda product: with_rule(lambda z: product(z, WEIGHTS)),
    "linear solve": lambda product: (
        lambda z: lax.custom_linear_solve(
            lambda y: y, z, lambda _, b: product(b, WEIGHTS), symmetric=True
        )
    ),
    "shard_map": lambda product: jax.shard_map(
        lambda z: product(z, WEIGHTS), mesh=MESH, in_specs=ROWS, out_specs=ROWS
    ),
    "vmap": lambda product: jax.vmap(lambda row: product(row[None], WEIGHTS)[0]),
}


def full_or(product):
    return lambda z: jax.nn.relu(product(z, WEIGHTS))


def with_rule(function):
    ruled = jax.custom_jvp(function)
    ruled.defjvp(lambda primals, tangents: (ruled(*primals), tangents[0]))
    return ruled


def narrow(f, z=Z):
    _, traced, operands = hoist(f, z, ())
    return narrowed(traced, operands, z, LOW)


@pytest.mark.parametrize("name", SHAPES)
def test_products_are_rounded_wherever_they_stand(name):
    found = narrow(SHAPES[name](full))(Z)
    expected = SHAPES[name](rounded)(Z)
    assert found.dtype == jnp.float32
    # XLA may leave out the last rounding, of what a product gives
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)
    assert jnp.max(jnp.abs(found - SHAPES[name](full)(Z))) > 1e-4


def test_a_convolution_is_rounded_with_what_it_gives():
    kernel = jax.random.normal(jax.random.key(2), (3, 3, 2, 2))
    image = jax.random.normal(jax.random.key(3), (1, 4, 4, 2))

    def convolve(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)

    found = narrow(lambda z: convolve(z, kernel), image)(image)
    assert found.dtype == jnp.float32
    expected = convolve(image.astype(LOW), kernel.astype(LOW))
    np.testing.assert_array_equal(found, expected.astype(jnp.float32))


def test_all_else_keeps_its_precision_and_its_derivative():
    def f(z):
        return 1e-4 * jnp.exp(z) + 1000 + 0 * (z @ WEIGHTS)

    np.testing.assert_array_equal(narrow(f)(Z), f(Z))
    ruled = narrow(SHAPES["custom rule"](full))
    np.testing.assert_array_equal(jax.jvp(ruled, (Z,), (Z,))[1], Z)


@pytest.mark.parametrize("of_state", [True, False])
def test_what_a_map_does_beside_its_result_is_still_done(of_state):
    seen = []

    def f(z):
        found = z @ WEIGHTS
        jax.debug.callback(lambda value: seen.append(value.shape), found if of_state else WEIGHTS)
        return found

    jax.block_until_ready(jax.jit(narrow(f))(Z))
    jax.effects_barrier()
    assert seen == [(Z if of_state else WEIGHTS).shape]


def test_weights_are_rounded_before_the_loop():
    jaxpr = jax.make_jaxpr(narrow(SHAPES["jit"](full)))(Z)
    rounded_shapes = [
        e.invars[0].aval.shape for e in jaxpr.eqns if e.params.get("new_dtype") == LOW
    ]
    assert rounded_shapes == [Z.shape]


@pytest.mark.parametrize(
    "f",
    [
        jnp.tanh,
        lambda z: rounded(z, WEIGHTS),
        lambda z: z + (jnp.arange(8) @ jnp.ones((8, 8), jnp.int32)),
    ],
)
def test_where_no_product_is_wider_there_is_nothing_to_narrow(f):
    assert narrow(f) is None
