"""Attention with grouped keys: several query heads share the keys and values of one key head.

Ainslie et al., EMNLP 2023, "GQA: Training Generalized Multi-Query Transformer Models from
Multi-Head Checkpoints", arXiv 2305.13245.
"""

import math

import jax
import jax.numpy as jnp


def attention(
    queries: jax.Array, keys: jax.Array, values: jax.Array, seen: jax.Array | None = None
) -> jax.Array:
    """Mix values by content: softmax(q_i . k_j / sqrt(d)) over the keys j that i sees.

    Products are summed and the softmax taken in float32 at least, in float64 for float64:
    `jax.nn.dot_product_attention` takes it in float32 always, which a fixed point in float64 and
    finite differences see.

    Args:
        queries: (batch, length, heads, d).
        keys: (batch, keys, key_heads, d); each key head serves heads / key_heads consecutive heads.
        values: like keys.
        seen: (1 or batch, 1, length, keys) bool, as of [`visible`][deqjax.nn.visible]; None is all.

    Returns:
        (batch, length, heads, d) in the dtype of the values.

    Raises:
        ValueError: key heads that do not divide the heads.
    """
    batch, length, heads, width = queries.shape
    key_heads = keys.shape[2]
    if heads % key_heads:
        raise ValueError(f"{heads} heads of queries cannot share {key_heads} heads of keys evenly.")
    dtype = jnp.promote_types(queries.dtype, jnp.float32)
    grouped = queries.reshape(batch, length, key_heads, heads // key_heads, width)
    products = jnp.einsum("blkgd,bskd->bkgls", grouped, keys, preferred_element_type=dtype)
    scores = products / math.sqrt(width)
    if seen is not None:
        scores = jnp.where(seen[:, :, None], scores, jnp.finfo(dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    mixed = jnp.einsum("bkgls,bskd->blkgd", weights, values)
    return mixed.reshape(queries.shape)
