"""Convolutions and their derivatives as solver loops have them, against JAX's own."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, PartitionSpec

from deqjax import fixed_point
from deqjax._core.convolution import in_fast_layout
from deqjax.adjoints import implicit
from deqjax.solvers import picard

LAST, FIRST = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


def convolution(axes, strides=(1, 1), padding="SAME", **options):
    return functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        dimension_numbers=axes,
        **options,
    )


# name -> the convolution, the shapes of images and of a kernel
KINDS = {
    "last": (convolution(LAST, (2, 1), ((0, 2), (1, 0))), (2, 5, 6, 3), (3, 3, 3, 4)),
    "first": (convolution(FIRST, (1, 2), ((-1, 0), (1, -1))), (2, 3, 5, 6), (4, 3, 3, 3)),
    "mixed": (
        convolution(("CWNH", "IOWH", "HWCN"), (1, 2), ((1, 1), (2, 0)), rhs_dilation=(2, 1)),
        (3, 6, 2, 5),
        (3, 4, 3, 2),
    ),
    "transposed": (
        convolution(LAST, (1, 1), ((2, 1), (1, 2)), lhs_dilation=(2, 3)),
        (2, 3, 4, 3),
        (3, 3, 3, 4),
    ),
    "grouped": (convolution(LAST, feature_group_count=2), (2, 4, 5, 16), (3, 3, 8, 4)),
    "small groups": (convolution(LAST, (2, 2), feature_group_count=3), (2, 4, 5, 6), (3, 3, 2, 9)),
    "depthwise": (
        convolution(FIRST, rhs_dilation=(1, 2), feature_group_count=4),
        (2, 4, 4, 5),
        (8, 1, 3, 3),
    ),
    "batch groups": (convolution(LAST, batch_group_count=2), (4, 4, 5, 3), (3, 3, 3, 4)),
    "line": (convolution(("NCH", "OIH", "NCH"), (2,), ((1, 1),)), (2, 3, 8), (4, 3, 3)),
    "volume": (
        convolution(("NCDHW", "OIDHW", "NCDHW"), (1, 2, 1)),
        (2, 3, 4, 3, 5),
        (2, 3, 3, 1, 3),
    ),
    "one": (convolution(FIRST, padding="VALID"), (1, 1, 3, 3), (1, 1, 3, 3)),
    "none": (convolution(FIRST), (0, 3, 4, 5), (4, 3, 3, 3)),
}


@pytest.fixture(params=KINDS)
def kind(request):
    with jax.enable_x64(True):
        convolve, *shapes = KINDS[request.param]
        keys = jax.random.split(jax.random.key(0), 2)
        yield convolve, [jax.random.normal(*each) for each in zip(keys, shapes, strict=True)]


def assert_equal(ours, theirs):
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-10)


def test_derivatives_to_the_second_order_are_those_of_lax(kind):
    convolve, operands = kind

    def push_and_pull(convolve, x, kernel):
        # what a Jacobian penalty does: forward, then backward through it
        def squared(x, kernel):
            y, pushed = jax.jvp(convolve, (x, kernel), (x**2, kernel + 1))
            return jnp.sum(jnp.tanh(y) * pushed**2), y

        return jax.grad(squared, argnums=(0, 1), has_aux=True)(x, kernel)

    both = jax.jit(lambda *operands: [push_and_pull(f, *operands) for f in (ours, convolve)])
    ours = in_fast_layout(convolve)
    assert_equal(*both(*operands))


@pytest.mark.parametrize("axes", [(1, None), (None, 0), (0, 3)], ids=["x", "kernel", "both"])
def test_batches_and_their_gradients_are_those_of_lax(axes):
    with jax.enable_x64(True):
        convolve, *shapes = KINDS["first"]
        many = [
            jnp.stack([leaf := jax.random.normal(jax.random.key(1), shape), leaf**2], axis or 0)
            if axis is not None
            else jax.random.normal(jax.random.key(1), shape)
            for shape, axis in zip(shapes, axes, strict=True)
        ]

        def total(convolve, *many):
            return jnp.sum(jnp.sin(jax.vmap(convolve, axes)(*many)))

        found = [
            jax.jit(jax.value_and_grad(functools.partial(total, f), argnums=(0, 1)))(*many)
            for f in (in_fast_layout(convolve), convolve)
        ]
        assert_equal(*found)


@pytest.mark.parametrize("wide", [None, jnp.float32], ids=["bfloat16", "float32"])
def test_dtypes_are_those_of_lax(wide):
    _, *shapes = KINDS["first"]
    x, kernel = (jnp.ones(shape, jnp.bfloat16) / 3 for shape in shapes)
    convolve = convolution(FIRST, preferred_element_type=wide)

    def loss(convolve, x, kernel):
        y = convolve(x, kernel)
        return jnp.sum(y.astype(jnp.float32)), y

    found = [
        jax.grad(functools.partial(loss, f), argnums=(0, 1), has_aux=True)(x, kernel)
        for f in (in_fast_layout(convolve), convolve)
    ]
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.astype(np.float32), theirs.astype(np.float32))


CELLS = {
    "first": convolution(FIRST),
    "depthwise": lambda z, kernel: convolution(FIRST, feature_group_count=3)(z, kernel[:, :1]),
    "inside": jax.jit(jax.checkpoint(convolution(FIRST))),
}


def loss(convolve, kernel, x):
    def f(z, kernel, x):
        return jnp.tanh(0.05 * convolve(z, kernel) + x)

    options = {"solver": picard, "adjoint": implicit(picard, tol=1e-6), "tol": 1e-6}
    return jnp.sum(fixed_point(f, jnp.zeros_like(x), kernel, x, **options).value ** 2)


@pytest.mark.parametrize("name", CELLS)
def test_all_convolutions_of_a_solve_and_its_gradient_have_the_layout_that_is_fast(name):
    x, kernel = jnp.ones((2, 3, 4, 5)), jnp.ones((3, 3, 3, 3))
    program = jax.jit(jax.grad(functools.partial(loss, CELLS[name]))).lower(kernel, x).as_text()
    lines = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    found = {re.search("dim_numbers = (.*), window", line)[1].replace(" ", "") for line in lines}
    fast = (
        "[b,f,0,1]x[o,i,0,1]->[b,f,0,1]"
        if name == "depthwise"
        else "[b,0,1,f]x[0,1,i,o]->[b,0,1,f]"
    )
    assert found == {fast}
    assert all("batch_group_count = 1" in line for line in lines)


@jax.custom_vjp
def convolved_backwards(x, kernel):
    return convolution(FIRST)(x, kernel)


convolved_backwards.defvjp(
    lambda x, kernel: (convolved_backwards(x, kernel), kernel),
    lambda kernel, ct: (
        convolution(FIRST)(ct, kernel.swapaxes(0, 1)),
        jnp.full_like(kernel, jnp.sum(ct)),
    ),
)


def inside_loops(jaxpr, inside=False):
    """Names of the primitives in the loops of a program."""
    names = set()
    for equation in jaxpr.eqns:
        names |= {equation.primitive.name} if inside else set()
        looped = inside or equation.primitive.name in ("scan", "while")
        for part in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(part, "eqns"):
                names |= inside_loops(getattr(part, "jaxpr", part), looped)
    return names


def test_a_derivative_of_its_own_is_fast_in_the_backward_solve():
    x, kernel = jnp.ones((2, 3, 4, 5)), jnp.ones((3, 3, 3, 3))
    gradient = jax.grad(functools.partial(loss, convolved_backwards))
    names = inside_loops(jax.make_jaxpr(gradient)(kernel, x).jaxpr)
    assert "convolution" in names
    assert "conv_general_dilated" not in names


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_platforms_get_the_program_that_they_had(platform):
    convolve, *shapes = KINDS["first"]
    operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def program(f):
        pull = jax.jit(jax.grad(lambda *operands: jnp.sum(f(*operands) ** 2), argnums=(0, 1)))
        return pull.trace(*operands).lower(lowering_platforms=(platform,)).as_text()

    ours, theirs = map(program, (in_fast_layout(convolve), convolve))
    for operation in ("transpose", "convolution", "reverse"):
        assert ours.count(f"stablehlo.{operation}") == theirs.count(f"stablehlo.{operation}")


@pytest.mark.parametrize("kind", [None, AxisType.Explicit], ids=["shard_map", "explicit"])
def test_gradient_of_a_solve_on_two_devices(kind):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 3))

    gradient = jax.grad(functools.partial(loss, CELLS["first"]), argnums=(0, 1))
    devices = np.array(jax.devices()[:2])
    split, whole = PartitionSpec("devices"), PartitionSpec()
    if kind is None:
        mapped = jax.shard_map(
            lambda *operands: lax.psum(loss(CELLS["first"], *operands), "devices"),
            mesh=Mesh(devices, ("devices",)),
            in_specs=(whole, split),
            out_specs=whole,
        )
        found = jax.jit(jax.grad(mapped, argnums=(0, 1)))(kernel, x)
    else:
        with jax.set_mesh(Mesh(devices, ("devices",), axis_types=(kind,))):
            placed = jax.device_put(kernel, whole), jax.device_put(x, split)
            found = jax.jit(gradient)(*placed)
    expected = jax.jit(gradient)(kernel, x)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
