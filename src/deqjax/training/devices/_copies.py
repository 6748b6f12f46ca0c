"""Copies of the same numbers on several devices: fetched once, and compared."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Tree = TypeVar("Tree")


def first_replica(tree: Tree) -> Tree:
    """One device's copy of leaves (copies, ...), moved to the host; keys become unbound arrays."""
    copy: Tree = jax.tree.map(_fetch, tree)
    return copy


def count_differing(leaf: jax.Array, axes: str | tuple[str, ...]) -> jax.Array:
    """() int32, numbers of an array whose bits are not the same along mapped axes."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        leaf = lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    same = lax.pmax(leaf, axes) == lax.pmin(leaf, axes)
    return jnp.sum(~same, dtype=jnp.int32)


def _fetch(leaf: jax.Array) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        # through the host: a key bound to some devices could not be placed on others
        data = np.asarray(jax.random.key_data(leaf))[0]
        return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(leaf))
    # a shard's own data: indexing the whole array would first gather it
    return np.asarray(leaf.addressable_shards[0].data)[0]
