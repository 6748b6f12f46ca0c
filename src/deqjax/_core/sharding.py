"""Buffers and starts that stand where the state z stands.

On a mesh with Explicit axes, the default of `jax.make_mesh`, an array's type says how it is
sharded, and operands whose types do not go together are refused: a buffer of zeros must be sharded
as the states that it will hold. Types follow the values computed with, whatever the context
(Explicit or Auto axes, `jax.shard_map`, `jax.pmap`, no mesh at all). So a buffer is made here by a
selection between z and a constant that never takes z, of which XLA leaves the constant.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec, use_abstract_mesh

from deqjax._core.manual_axes import vary, varying_axes
from deqjax._core.types import PerSample, State

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")


def filled_like(leaf: jax.Array, value: Any, dtype: Any = None) -> jax.Array:
    """The value, which may be an array that broadcasts, in shape and place of the leaf."""
    beside = lax.stop_gradient(leaf).astype(dtype or leaf.dtype)
    return jnp.where(False, beside, jnp.asarray(value, beside.dtype))


def zeros_like(tree: Any) -> Any:
    """Zeros in the shapes and in the place of a tree's leaves."""
    return jax.tree.map(lambda leaf: filled_like(leaf, 0), tree)


def filled_per_sample(state: State, value: Any, dtype: Any) -> PerSample:
    """(batch, ...) a number or an array for each sample, where the samples are."""
    leaf = jax.tree.leaves(state)[0]
    one_each = jnp.sum(filled_like(leaf, 0, dtype), axis=tuple(range(1, leaf.ndim)), dtype=dtype)
    value = jnp.asarray(value, dtype)
    beside = one_each.reshape(-1, *(1,) * value.ndim)
    filled: PerSample = jnp.where(False, beside, value[None])
    return filled


def repeated(array: jax.Array, count: int, axis: int) -> jax.Array:
    """The array ``count`` times along a new axis."""
    expanded = jnp.expand_dims(array, axis)
    return jnp.broadcast_to(expanded, (*array.shape[:axis], count, *array.shape[axis:]))


def written(array: jax.Array, row: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """The array with a row of this index along an axis; as it was where there is no such row."""
    old = lax.dynamic_index_in_dim(array, index, axis=axis, keepdims=False)
    row = jnp.where(index < array.shape[axis], row, old)
    result: jax.Array = lax.dynamic_update_index_in_dim(array, row, index, axis=axis)
    return result


def summed_over_features(columns: jax.Array) -> NamedSharding | None:
    """Where inner products (batch, count) of columns (batch, count, features) are.

    It must be said where the features are sharded over Explicit axes, and is None elsewhere.
    """
    sharding = jax.typeof(columns).sharding
    batch, *_, features = sharding.spec
    if features is None or not sharding.mesh.explicit_axes:
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(batch, None))


def placed_like(state: State, result: State) -> State:
    """Z where f(z) is: varying over its mesh axes, and sharded as it is if z is on all devices.

    Args:
        state: z, leaves (batch, ...).
        result: f(z) of the same structure and shapes; may be abstract.
    """

    def leaf(x: jax.Array, like: Any) -> jax.Array:
        wanted, own = explicit_sharding(like), explicit_sharding(x)
        if wanted is None or (own is not None and any(own.spec)):
            return x
        placed: jax.Array = jax.sharding.reshard(x, wanted)
        return placed

    state = jax.tree.map(leaf, state, result)
    return vary(state, varying_axes(state) | varying_axes(result))


def explicit_sharding(array: Any) -> NamedSharding | None:
    """How an array, which may be abstract, is sharded over Explicit axes; None if over none."""
    kind = array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)
    sharding = kind.sharding
    if not isinstance(sharding, NamedSharding) or not sharding.mesh.explicit_axes:
        return None
    return sharding


def in_mesh_of(tree: Any, function: Callable[Inputs, Result]) -> Callable[Inputs, Result]:
    """The function inside the mesh whose Explicit axes the leaves are sharded over.

    Without it JAX 0.12 loses, outside of `jax.set_mesh`, what the transpose of a loop must know.
    """
    mesh = _mesh_of(tree)
    if mesh is None or not jax.sharding.get_abstract_mesh().empty:
        return function

    # a mesh of types alone can be entered only where functions are traced
    @jax.jit
    @functools.wraps(function)
    def inside(*inputs: Inputs.args, **options: Inputs.kwargs) -> Result:
        with use_abstract_mesh(mesh):
            return function(*inputs, **options)

    return inside


def _mesh_of(tree: Any) -> AbstractMesh | None:
    shardings = [explicit_sharding(leaf) for leaf in jax.tree.leaves(tree)]
    meshes = [sharding.mesh.abstract_mesh for sharding in shardings if sharding is not None]
    return meshes[0] if meshes else None
