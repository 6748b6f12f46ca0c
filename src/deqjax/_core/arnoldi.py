"""Arnoldi's process: each sample's linear map, restricted to a Krylov space."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.flatten import ravel, unravel
from deqjax._core.manual_axes import vary, varying_axes
from deqjax._core.sharding import filled_like, repeated, summed_over_features, written
from deqjax._core.types import PerSample, State

_ROUNDING = 16  # a remainder of fewer units in the last place has no direction of its own


class _Basis(NamedTuple):
    columns: jax.Array  # V, (batch, m, features), orthonormal; zero where not filled
    scale: PerSample  # (batch,) largest norm of an image so far, a lower bound of ||A||


def arnoldi(product: Callable[[State], State], start: State, dimension: int) -> jax.Array:
    """The Hessenberg matrix H = V^T A V of each sample's A, with V a basis of its Krylov space.

    V spans v, A v, ..., A^(m-1) v and is orthogonalized twice by classical Gram-Schmidt, which
    keeps it orthogonal to rounding (Saad, Numerical Methods for Large Eigenvalue Problems, 2nd ed.,
    section 6.2; Giraud, Langou, Rozloznik & van den Eshof, Numer. Math. 2005). Where the space is
    exhausted, at an invariant subspace, the rest of H is zero.

    Memory: m times |v| in the wide dtype. Cost per dimension: one product and about 4 m |v|
    multiply-adds.

    Args:
        product: v -> A v, linear in each sample, on states like the start.
        start: v, leaves (batch, ...).
        dimension: m, static; at most the features of a sample.

    Returns:
        (batch, m, m) in the accumulation dtype; not finite where a product was not.
    """
    dtype = algebra.accumulation_dtype(start)
    rounding = _ROUNDING * float(jnp.finfo(dtype).eps)
    rows = jnp.arange(dimension)[None]

    def step(basis: _Basis, index: jax.Array) -> tuple[_Basis, jax.Array]:
        newest = lax.dynamic_index_in_dim(basis.columns, index, axis=1, keepdims=False)
        image = ravel(product(unravel(newest, start)), dtype)
        scale = jnp.maximum(basis.scale, _norm(image))
        coordinates, rest = _orthogonalize(image, basis.columns)
        height = _norm(rest)
        goes_on = height > rounding * scale  # not if it is NaN: the coordinates then show it
        height = jnp.where(goes_on, height, 0)
        following = jnp.where(goes_on[:, None], rest / jnp.where(goes_on, height, 1)[:, None], 0)
        columns = written(basis.columns, following, index + 1, axis=1)
        return _Basis(columns, scale), coordinates + jnp.where(
            rows == index + 1, height[:, None], 0
        )

    first = ravel(start, dtype)
    length = _norm(first)
    first = first / jnp.where(length > 0, length, 1)[:, None]
    empty = repeated(filled_like(first, 0), dimension, axis=1)
    begin = _Basis(empty.at[:, 0].set(first), filled_like(length, 0))
    _, columns = lax.scan(step, vary(begin, varying_axes(start)), jnp.arange(dimension))
    return jnp.moveaxis(columns, 0, 2)


def _orthogonalize(vector: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Coordinates (batch, m) of the vector, and what is left of it."""
    once = _inner_products(columns, vector)
    rest = vector - _combine(columns, once)
    twice = _inner_products(columns, rest)
    return once + twice, rest - _combine(columns, twice)


def _inner_products(columns: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.einsum(
        "bmn,bn->bm",
        columns,
        vector,
        precision=lax.Precision.HIGHEST,
        out_sharding=summed_over_features(columns),
    )


def _combine(columns: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.einsum("bmn,bm->bn", columns, weights, precision=lax.Precision.HIGHEST)


def _norm(vector: jax.Array) -> PerSample:
    length: PerSample = jnp.sqrt(jnp.sum(vector**2, axis=1))
    return length
