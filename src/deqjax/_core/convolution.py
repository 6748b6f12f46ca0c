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

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
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

# Products that one number of the result adds up, in a convolution of groups. With so many or fewer
# XLA's own loop over the positions is the faster by ten times, where channels come first and it is
# vectorized: the kernel of the fast layout goes through the groups one by one.
_MOST_PRODUCTS = 64


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
    groups, sharding = params["batch_group_count"], params["out_sharding"]
    if groups > 1 and sharding is not None:
        return _lax(x, kernel, **params)  # features of a divided batch would not be typed
    # where batch (out), features (in) and the spatial axes are
    images, weights, results = params["dimension_numbers"]
    logical = tuple(range(x.ndim))
    if groups > 1:
        # has no fast form anywhere, and is the same as groups of features
        x = _features_of_batch_groups(lax.transpose(x, images), groups)
        images = logical
        params |= {"batch_group_count": 1, "feature_group_count": groups}
    products = math.prod(kernel.shape[axis] for axis in weights[1:])
    if params["feature_group_count"] > 1 and products <= _MOST_PRODUCTS:
        image, weight = logical, logical  # channels first: see _MOST_PRODUCTS
    else:
        image, weight = (0, *logical[2:], 1), (*logical[2:], 1, 0)
    params["dimension_numbers"] = ConvDimensionNumbers(*map(_places, (image, weight, image)))
    place = [results[axis] for axis in image]  # of each axis of y, in the result
    if sharding is not None:  # on meshes of Explicit axes
        spec = (*sharding.spec, *x.ndim * [None])
        moved = PartitionSpec(*(spec[axis] for axis in place))
        params["out_sharding"] = NamedSharding(sharding.mesh, moved)
    x = lax.transpose(x, [images[axis] for axis in image])
    kernel = lax.transpose(kernel, [weights[axis] for axis in weight])
    return lax.transpose(_lax(x, kernel, **params), _places(place))


def _places(order: Sequence[int]) -> Axes:
    """The inverse of a permutation."""
    return tuple(order.index(axis) for axis in range(len(order)))


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Batched:
    array: jax.Array
    axis: int | None = dataclasses.field(metadata={"static": True})  # of the batch


def _batched(data: Any, operands: Any, axes: Any, **params: Any) -> Any:
    rule = functools.partial(batching.fancy_primitive_batchers[conv_general_dilated_p], **params)

    def batched(*operands: Any) -> _Batched:
        return _Batched(*rule(data, operands, axes))

    found = in_fast_layout(batched)(*operands)
    return found.array, found.axis


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
