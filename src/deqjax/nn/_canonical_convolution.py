"""A convolution whose derivatives are convolutions in the same layout of their operands.

XLA's CPU compiler has a fast kernel for one layout only, images (batch, height, width, channels)
with kernels (height, width, in, out), and brings other layouts into it everywhere but in the bodies
of loops (its pass ConvCanonicalization, JAX 0.10 and 0.12). The pull-backs of
`lax.conv_general_dilated` have other layouts, and a backward solve pulls back in a loop, where they
would run 10 to 50 times as long as a forward convolution. Here every derivative of any order has
that layout again, by transposing its operands first.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from deqjax._core.manual_axes import vary, varying_axes

Pair = tuple[int, int]
_LAYOUT = ("NHWC", "HWIO", "NHWC")


class Window(NamedTuple):
    """How a kernel moves, for (height, width).

    Attributes:
        strides: positions from one output to the next.
        padding: zeros before and after each axis; a negative number crops.
        spread: the image's pixels lie so far apart, with zeros between them.
        dilation: the kernel's weights lie so far apart.
    """

    strides: Pair
    padding: tuple[Pair, Pair]
    spread: Pair = (1, 1)
    dilation: Pair = (1, 1)


def canonical_convolution(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The cross-correlation of x (batch, height, width, in) with (height, width, in, out)."""
    x, kernel = vary((x, kernel), varying_axes((x, kernel)))
    result: jax.Array = _convolution.bind(x, kernel, window=window)
    return result


def _lax(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        lhs_dilation=window.spread,
        rhs_dilation=window.dilation,
        dimension_numbers=_LAYOUT,
    )


def _shape(x: Any, kernel: Any, *, window: Window) -> Any:
    # what lax says, so that everything an abstract value knows besides shape and dtype is there
    abstract = jax.make_jaxpr(functools.partial(_lax, window=window))(x, kernel)
    return abstract.out_avals[0]


def _pull_back_to_image(cotangent: jax.Array, x: Any, kernel: jax.Array, *, window: Window) -> Any:
    """The cotangent, its pixels a stride apart, correlated with the mirrored kernel."""
    shape, padding = x.aval.shape, []
    for axis in range(2):
        reach = (kernel.shape[axis] - 1) * window.dilation[axis]
        before = reach - window.padding[axis][0]
        image = (shape[1 + axis] - 1) * window.spread[axis] + 1
        output = (cotangent.shape[1 + axis] - 1) * window.strides[axis] + 1
        padding.append((before, image + reach - output - before))
    mirrored = jnp.transpose(jnp.flip(kernel, (0, 1)), (0, 1, 3, 2))
    moved = Window(window.spread, (padding[0], padding[1]), window.strides, window.dilation)
    return canonical_convolution(cotangent, mirrored, moved)


def _pull_back_to_kernel(cotangent: jax.Array, x: jax.Array, kernel: Any, *, window: Window) -> Any:
    """The image correlated with the cotangent, channels as the batch and the batch as channels."""
    shape, padding = kernel.aval.shape, []
    for axis in range(2):
        before = window.padding[axis][0]
        image = (x.shape[1 + axis] - 1) * window.spread[axis] + 1
        output = (cotangent.shape[1 + axis] - 1) * window.strides[axis] + 1
        reach = (shape[axis] - 1) * window.dilation[axis]
        padding.append((before, reach + output - image - before))
    moved = Window(window.dilation, (padding[0], padding[1]), window.spread, window.strides)
    found = canonical_convolution(
        jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(cotangent, (1, 2, 0, 3)), moved
    )
    return jnp.transpose(found, (1, 2, 0, 3))


def _batched(operands: Any, axes: Any, *, window: Window) -> Any:
    x, kernel = operands
    if axes[1] is None:
        many = jnp.moveaxis(x, axes[0], 0)
        flat = canonical_convolution(many.reshape(-1, *many.shape[2:]), kernel, window)
        return flat.reshape(*many.shape[:2], *flat.shape[1:]), 0
    # kernels of their own: JAX groups the channels, which has no fast form anyway
    return jax.vmap(functools.partial(_lax, window=window), axes)(x, kernel), 0


# A primitive, because nothing else has both a forward derivative and a transpose of its own.
_convolution = Primitive("canonical_convolution")
_convolution.def_impl(jax.jit(_lax, static_argnames="window"))
_convolution.def_abstract_eval(_shape)
ad.defbilinear(_convolution, _pull_back_to_image, _pull_back_to_kernel)
batching.primitive_batchers[_convolution] = _batched
mlir.register_lowering(_convolution, mlir.lower_fun(_lax, multiple_results=False))
