"""Keeping loops well-typed inside `jax.shard_map`.

There each array's type says over which mesh axes it varies, a loop's carry must keep its type, and
constants such as a start of zeros vary over none. Elsewhere these functions change nothing.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.types import Map, State

Tree = TypeVar("Tree")


def vary_like_result(f: Map, z0: State, *args: Any) -> State:
    """Mark z0 as varying over the mesh axes that f(z0) varies over."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return z0
    return vary(z0, varying_axes(z0) | varying_axes(jax.eval_shape(f, z0, *args)))


def varying_axes(tree: Any) -> frozenset[Any]:
    """The mesh axes that any leaf varies over."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return frozenset()
    avals = [jax.typeof(x) if isinstance(x, jax.Array) else x for x in jax.tree.leaves(tree)]
    # None where shard_map does not check (pmap, check_vma=False), and then nothing needs marking
    kinds = [aval.manual_axis_type for aval in avals if aval.manual_axis_type is not None]
    return frozenset[Any]().union(*(kind.varying for kind in kinds))


def vary(tree: Tree, axes: frozenset[Any]) -> Tree:
    """Mark every leaf as varying over the axes."""

    def mark(leaf: jax.Array) -> jax.Array:
        missing = tuple(axes - jax.typeof(leaf).manual_axis_type.varying) if axes else ()
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    result: Tree = jax.tree.map(mark, tree)
    return result


def vary_discrete(tree: Tree, axes: frozenset[Any]) -> Tree:
    """Mark the integers and keys among the leaves as varying over the axes."""

    def mark(leaf: Any) -> Any:
        if not axes or jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return leaf
        return vary(jnp.asarray(leaf), axes)

    result: Tree = jax.tree.map(mark, tree)
    return result
