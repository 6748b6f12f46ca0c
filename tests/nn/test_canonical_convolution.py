"""The convolution whose derivatives keep one layout, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deqjax.nn._canonical_convolution import Window, canonical_convolution

pytestmark = pytest.mark.usefixtures("float64")

WINDOWS = {
    "same": Window((1, 1), ((1, 1), (1, 1))),
    "stride": Window((2, 2), ((1, 1), (1, 1))),
    "uneven": Window((2, 1), ((0, 2), (1, 0))),
    "cropped": Window((1, 2), ((-1, 0), (1, -1))),
    "spread": Window((1, 1), ((2, 1), (1, 2)), spread=(2, 3)),
    "dilated": Window((3, 1), ((2, 2), (0, 1)), dilation=(2, 1)),
}


def reference(x, kernel, window):
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        window.spread,
        window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def operands(height=7, width=8):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (2, height, width, 3)), jax.random.normal(
        keys[1], (3, 3, 3, 4)
    )


@pytest.fixture(params=WINDOWS)
def window(request):
    return WINDOWS[request.param]


def test_value_is_that_of_lax(window):
    x, kernel = operands()
    ours, theirs = canonical_convolution(x, kernel, window), reference(x, kernel, window)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_pull_backs_are_those_of_lax(window):
    x, kernel = operands()
    y, pull = jax.vjp(lambda *both: canonical_convolution(*both, window), x, kernel)
    _, expected = jax.vjp(lambda *both: reference(*both, window), x, kernel)
    cotangent = jax.random.normal(jax.random.key(1), y.shape)
    for ours, theirs in zip(pull(cotangent), expected(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_second_derivatives_are_those_of_lax(window):
    x, kernel = operands()

    def gradient_of_squared_push_forward(convolution):
        # what the Jacobian penalty does: forward, then backward through it
        def squared(x, kernel):
            _, pushed = jax.jvp(lambda x: jnp.tanh(convolution(x, kernel, window)), (x,), (x**2,))
            return jnp.sum(pushed**2)

        return jax.jit(jax.grad(squared, argnums=(0, 1)))(x, kernel)

    found = map(gradient_of_squared_push_forward, (canonical_convolution, reference))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("axes", [(1, None), (None, 0), (0, 3)], ids=["x", "kernel", "both"])
def test_batches_of_convolutions(axes):
    x, kernel = operands()
    many = [
        jnp.stack([leaf, 2 * leaf**2], axis) if axis is not None else leaf
        for leaf, axis in zip((x, kernel), axes, strict=True)
    ]

    def one(x, kernel):
        return canonical_convolution(x, kernel, WINDOWS["stride"])

    found = jax.vmap(one, axes)(*many)
    for index, each in enumerate(found):
        parts = [
            leaf if axis is None else jnp.take(leaf, index, axis)
            for leaf, axis in zip(many, axes, strict=True)
        ]
        np.testing.assert_allclose(each, one(*parts), rtol=1e-12, atol=1e-12)


def test_gradient_of_a_batch_of_images_with_one_kernel():
    x, kernel = operands()
    window = WINDOWS["same"]

    def total(convolution, x, kernel):
        each = jax.vmap(lambda x: convolution(x[None], kernel, window))(x)
        return jnp.sum(jnp.sin(each))

    ours = jax.grad(lambda k: total(canonical_convolution, x, k))(kernel)
    theirs = jax.grad(lambda k: total(reference, x, k))(kernel)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradient_under_shard_map_over_the_batch():
    x, kernel = operands()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("devices",))
    split, whole = jax.sharding.PartitionSpec("devices"), jax.sharding.PartitionSpec()
    window = WINDOWS["same"]

    def total(x, kernel):
        own = jnp.sum(canonical_convolution(x, kernel, window) ** 3)
        return lax.psum(own, "devices")

    mapped = jax.shard_map(total, mesh=mesh, in_specs=(split, whole), out_specs=whole)
    found = jax.grad(mapped, argnums=(0, 1))(x, kernel)
    expected = jax.grad(lambda *both: jnp.sum(reference(*both, window) ** 3), argnums=(0, 1))(
        x, kernel
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_every_convolution_of_a_loop_of_pull_backs_has_the_layout_that_is_fast():
    x, kernel = operands()
    kernel = kernel[..., :3]
    window = WINDOWS["same"]

    def solve(kernel):
        _, pull = jax.vjp(lambda x: canonical_convolution(x, kernel, window), x)
        loop = lax.fori_loop(0, 3, lambda _, w: pull(w)[0], x)
        return jnp.sum(loop)

    compiled = jax.jit(solve).lower(kernel).compile().as_text()
    layouts = {
        part.split(",")[0].split()[0]
        for line in compiled.splitlines()
        if " convolution(" in line
        for part in line.split("dim_labels=")[1:]
    }
    assert layouts == {"b01f_01io->b01f"}
