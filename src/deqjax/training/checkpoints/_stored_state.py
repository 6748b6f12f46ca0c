"""A training state as named NumPy arrays, the form in which checkpoints hold it, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or cannot be read, or does not fit the state asked for."""


def to_host(tree: Any) -> Any:
    """The tree with NumPy arrays as leaves: readable on any device, whatever it was saved from.

    Raises:
        CheckpointError: a leaf is not an array of numbers.
    """
    return jax.tree_util.tree_map_with_path(_to_host, tree)


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by their dotted names."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def form(leaf: Any) -> str:
    """Dtype and shape as users write them."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def as_stored(leaf: Any) -> jax.ShapeDtypeStruct:
    """Dtype and shape of what a leaf is stored as."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def as_asked(leaf: Any, value: np.ndarray) -> Any:
    """A stored value as the kind of leaf that is asked for."""
    if not _is_key(leaf):
        return value
    implementation = jax.random.key_impl(jnp.empty(leaf.shape, leaf.dtype))
    return jax.random.wrap_key_data(jnp.asarray(value), impl=implementation)


def check_fit(folder: Path, stored: Mapping[str, Any], wanted: Any) -> None:
    """Compare names, shapes and dtypes, because Orbax would cast without a word.

    Args:
        folder: of the checkpoint.
        stored: name of a leaf -> its form, and what else is stored of it.
        wanted: the tree to fill, of what leaves are stored as.

    Raises:
        CheckpointError: they differ.
    """
    there = {name: each[0] for name, each in stored.items()}
    here = {name: form(leaf) for name, leaf in named_leaves(wanted).items()}
    names = [name for name in here | there if here.get(name) != there.get(name)]
    if names:
        first = names[0]
        raise CheckpointError(
            f"The checkpoint in {folder} is of another model: leaf {first} is "
            f"{there.get(first, 'absent')} there and {here.get(first, 'absent')} here "
            f"({len(names)} leaves differ); use the config it was saved with."
        )


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _to_host(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        return np.asarray(jax.random.key_data(leaf))
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic) or leaf.dtype.kind in "OSU":
        raise CheckpointError(
            f"Leaf {_name(path)} of the state is {leaf!r}, which is not an array of numbers; "
            "keep it in the metadata, or make it an array."
        )
    return np.asarray(leaf)
