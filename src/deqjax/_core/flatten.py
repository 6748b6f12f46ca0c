"""A state as one array and back."""

from typing import Any

import jax
import jax.numpy as jnp

from deqjax._core import algebra
from deqjax._core.types import State


def ravel(state: State, dtype: Any) -> jax.Array:
    """(batch, features): each sample's leaves side by side, in one dtype."""
    return jnp.concatenate([algebra.flat(x).astype(dtype) for x in jax.tree.leaves(state)], axis=1)


def unravel(vectors: jax.Array, like: State) -> State:
    """The inverse of `ravel`: structure, shapes and dtypes of ``like``."""
    leaves, structure = jax.tree.flatten(like)
    parts, begin = [], 0
    for leaf in leaves:
        end = begin + leaf.size // leaf.shape[0]
        parts.append(vectors[:, begin:end].reshape(leaf.shape).astype(leaf.dtype))
        begin = end
    return jax.tree.unflatten(structure, parts)
