"""Convolutions that are fast inside of loops too, whoever wrote them.

XLA's CPU compiler has a fast kernel for one layout only, images (batch, ..., channels) with kernels
(..., in, out), and brings other layouts into it in a program's outermost computation alone: not in
loops and branches (its pass ConvCanonicalization, JAX 0.10 and 0.12). The pull-backs of
`lax.conv_general_dilated` have other layouts, and so has an f for images (batch, channels, ...);
solvers evaluate and pull back in loops, where such a convolution takes 10 to 100 times as long.

So a function that goes into a loop is traced, and a primitive of our own takes the place of lax's.
It is lax's convolution in all but the program that it becomes for a CPU: there it has the fast
layout, and so have its derivatives of any order, because each of JAX's rules for the convolution is
traced and has its convolutions replaced as well. For other platforms it becomes what lax's becomes:
their compilers choose layouts everywhere.

What `jax.custom_jvp` and `jax.custom_vjp` functions have as derivatives is not looked into.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.lax import ConvDimensionNumbers, conv_general_dilated_p
from jax.sharding import NamedSharding, PartitionSpec

from deqjax._core.substitute import substituted

Result = TypeVar("Result")
Axes: TypeAlias = tuple[int, ...]

_MOST_PRODUCTS = 64  # of a number of a result, up to which a plain loop is the fastest


def with_fast_convolutions(jaxpr: Any) -> Any:
    """The jaxpr with this module's primitive in the place of lax's; itself if it has none."""
    return substituted(jaxpr, {conv_general_dilated_p: convolution_p})


def in_fast_layout(f: Callable[..., Result]) -> Callable[..., Result]:
    """f, for use in a loop or a branch: its convolutions and their derivatives are fast there.

    What is no convolution stays as it is, bit for bit. f is traced once a call, and takes and
    returns pytrees of arrays.
    """

    def traced(*args: Any) -> Result:
        def evaluate(*args: Any) -> Result:  # a new one each time, which JAX then traces anew
            return f(*args)

        closed, shape = jax.make_jaxpr(evaluate, return_shape=True)(*args)
        jaxpr = with_fast_convolutions(closed.jaxpr)
        leaves = jax.core.eval_jaxpr(jaxpr, closed.consts, *jax.tree.leaves(args))
        result: Result = jax.tree.unflatten(jax.tree.structure(shape), leaves)
        return result

    return traced


def _laid_out(x: jax.Array, kernel: jax.Array, **params: Any) -> jax.Array:
    """The convolution with its operands brought into the layout that is fast on a CPU."""
    axes: ConvDimensionNumbers = params["dimension_numbers"]
    if params["batch_group_count"] > 1 and params["out_sharding"] is not None:
        return _lax(x, kernel, **params)  # features of a divided batch would not be typed
    # (batch, in, *spatial) and (out, in, *spatial)
    x, kernel = lax.transpose(x, axes.lhs_spec), lax.transpose(kernel, axes.rhs_spec)
    if params["batch_group_count"] > 1:
        # has no fast form anywhere, and is the same as groups of features
        groups = params["batch_group_count"]
        x = _features_of_batch_groups(x, groups)
        params |= {"batch_group_count": 1, "feature_group_count": groups}
    order = tuple(range(x.ndim))
    image, weights = order, order
    products = math.prod(kernel.shape[1:])
    if params["feature_group_count"] == 1 or products > _MOST_PRODUCTS:
        x, kernel = lax.transpose(x, (0, *order[2:], 1)), lax.transpose(kernel, (*order[2:], 1, 0))
        image, weights = (0, order[-1], *order[1:-1]), (order[-1], order[-2], *order[:-2])
    params["dimension_numbers"] = ConvDimensionNumbers(image, weights, image)
    params["out_sharding"] = _moved(params["out_sharding"], axes.out_spec, image)
    y = lax.transpose(_lax(x, kernel, **params), image)
    return lax.transpose(y, [axes.out_spec.index(axis) for axis in order])


def _moved(sharding: NamedSharding | None, source: Axes, target: Axes) -> NamedSharding | None:
    """The sharding of a result with its axes elsewhere; only given on meshes of Explicit axes."""
    if sharding is None:
        return None
    spec = (*sharding.spec, *len(source) * [None])
    moved = sorted(zip(target, source, strict=True))
    return NamedSharding(sharding.mesh, PartitionSpec(*(spec[axis] for _, axis in moved)))


def _features_of_batch_groups(x: jax.Array, groups: int) -> jax.Array:
    """(groups * batch, features, ...) -> (batch, groups * features, ...)."""
    _, features, *spatial = x.shape
    grouped = x.reshape(groups, -1, features, *spatial)
    return jnp.moveaxis(grouped, 0, 1).reshape(-1, groups * features, *spatial)


def _lax(x: jax.Array, kernel: jax.Array, **params: Any) -> jax.Array:
    result: jax.Array = conv_general_dilated_p.bind(x, kernel, **params)
    return result


def _push_image(tangent: jax.Array, _: Any, kernel: jax.Array, **params: Any) -> Any:
    return convolution_p.bind(tangent, kernel, **params)


def _push_kernel(tangent: jax.Array, x: jax.Array, _: Any, **params: Any) -> Any:
    return convolution_p.bind(x, tangent, **params)


def _pull_back(cotangent: Any, x: Any, kernel: Any, **params: Any) -> Any:
    """JAX's own rule, for x or the kernel: whichever is not known is what is differentiated by."""
    rule = functools.partial(ad.primitive_transposes[conv_general_dilated_p], **params)
    if isinstance(cotangent, ad.Zero) or not cotangent.size:
        return rule(cotangent, x, kernel)
    if ad.is_undefined_primal(x):
        return in_fast_layout(lambda c, kernel: rule(c, x, kernel))(cotangent, kernel)
    return in_fast_layout(lambda c, x: rule(c, x, kernel))(cotangent, x)


def _batched(data: Any, operands: Any, axes: Any, **params: Any) -> Any:
    rule = functools.partial(batching.fancy_primitive_batchers[conv_general_dilated_p], **params)
    axis = []

    def batched(*operands: Any) -> Any:
        result, place = rule(data, operands, axes)
        axis.append(place)
        return result

    return in_fast_layout(batched)(*operands), axis[0]


# A primitive, because nothing else has both a forward derivative and a transpose of its own.
convolution_p = Primitive("convolution")
convolution_p.def_impl(_lax)  # by itself it is a program's outermost computation
convolution_p.def_effectful_abstract_eval(conv_general_dilated_p.abstract_eval)
ad.defjvp(convolution_p, _push_image, _push_kernel)
ad.primitive_transposes[convolution_p] = _pull_back
batching.fancy_primitive_batchers[convolution_p] = _batched
mlir.register_lowering(convolution_p, mlir.lower_fun(_lax, multiple_results=False))
mlir.register_lowering(
    convolution_p, mlir.lower_fun(_laid_out, multiple_results=False), platform="cpu"
)
