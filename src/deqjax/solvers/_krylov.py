"""Linear systems A x = b, one per sample, by GMRES in a Krylov space of fixed size.

Samples share the loop and nothing else. All small algebra is elementwise over the batch: the
product of the Givens rotations and the inverse of the triangular factor are kept as matrices, so
that a step is a few matrix-vector products and no triangular solve (as in `_least_squares`, LAPACK
calls or chains of scalar rotations for many tiny systems would cost more than they compute).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.history import (
    empty_columns,
    inner_products,
    store,
    stored,
    subtract_weighted,
)
from deqjax._core.manual_axes import vary, varying_axes
from deqjax._core.sharding import filled_per_sample, zeros_like
from deqjax._core.types import PerSample, Scalar, State


class LinearSolution(NamedTuple):
    """What GMRES found.

    Attributes:
        value: x, like b; zero where b is zero or not finite, or where no step was allowed.
        residual: (batch,) ||b - A x|| / ||b|| as GMRES estimates it, 1 where x is zero.
        steps: (batch,) int32, products with A that the sample used.
        products: () int32, products with A on the whole batch: the steps of the slowest sample.
    """

    value: State
    residual: PerSample
    steps: PerSample
    products: jax.Array


class _Arnoldi(NamedTuple):
    """After k steps A V_k = V_(k+1) H_k and Q H_k = R with ||b - A x|| = |(Q e_1)_(k+1)| ||b||."""

    taken: jax.Array  # () int32, k
    running: jax.Array  # () bool, whether any sample goes on
    active: PerSample  # (batch,) bool
    basis: State  # V, leaves (batch, m + 1, features), columns zero until filled
    rotations: jax.Array  # Q, (batch, m + 1, m + 1)
    inverse: jax.Array  # R^-1, (batch, m, m), columns zero until filled
    weights: jax.Array  # y, (batch, m), with x = ||b|| V y
    overlap: jax.Array  # (batch, m), inner products of `near` with the columns of V
    residual: PerSample  # (batch,)
    steps: PerSample  # (batch,) int32


def solve_linear(
    product: Callable[[State], State],
    right: State,
    *,
    tol: Scalar | PerSample,
    limit: Scalar | PerSample,
    size: int,
    near: State | None = None,
    axis_name: str | None = None,
) -> LinearSolution:
    """Minimize ||b - A x|| over the Krylov space of each sample's A and b, one dimension a step.

    GMRES (Saad & Schultz, SIAM J. Sci. Stat. Comput. 1986; Saad, Iterative Methods for Sparse
    Linear Systems, 2nd ed., section 6.5) from x = 0, without restart. The basis is orthogonalized
    twice by classical Gram-Schmidt, which keeps it orthogonal to rounding (Giraud, Langou,
    Rozloznik & van den Eshof, Numer. Math. 2005). A sample ends at its tolerance, at its limit,
    when its Krylov space is exhausted (x is then exact unless A is singular there), or at a
    product that is not finite, which x leaves out.

    Memory: m + 1 times |b|. Cost per step: one product and about 4 m |b| multiply-adds.

    Args:
        product: v -> A v, linear in each sample, on states like b.
        right: b, leaves (batch, ...).
        tol: a sample stops at ||b - A x|| <= tol ||b||; a number or (batch,).
        limit: most steps of a sample, a number or (batch,); 0 leaves it at x = 0 at no cost.
        size: m, most dimensions of the Krylov space, static.
        near: if given, a sample stops instead when ||b - A x|| is at most tol times the norm of
            (near + x) + (b - A x), which for A = I - df/dz and b = f(z) - z at z = near is f of
            the updated iterate.
        axis_name: mapped axis over which replicas stop together; needed if A has collectives.
    """
    dtype = algebra.accumulation_dtype(right)
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(right))
    tol, limit = jnp.asarray(tol, dtype), jnp.asarray(limit, jnp.int32)
    length = algebra.norm(right)
    solvable = (length > 0) & jnp.isfinite(length) & (limit > 0)
    length = jnp.where(solvable, length, 1)
    rows = jnp.arange(size + 1, dtype=jnp.int32)[None]
    columns = rows[:, :size]

    def enough(residual: PerSample, weights: jax.Array, overlap: jax.Array) -> PerSample:
        if near is None:
            return residual <= tol
        # ||near + x|| by coordinates: the columns of V are orthonormal
        along = 2 * length * _dot(overlap, weights) + length**2 * _dot(weights, weights)
        updated = jnp.sqrt(jnp.maximum(algebra.dot(near, near) + along, 0))
        # f of the updated iterate is shorter than it by at most the residual
        return length * residual * (1 + tol) <= tol * updated

    def advance(carry: _Arnoldi) -> _Arnoldi:
        k = carry.taken
        newest = _like(right, stored(carry.basis, k))
        image = product(newest)
        inside, rest = _orthogonalize(image, carry.basis)
        height, rounding = algebra.norm(rest), 4 * eps * algebra.norm(image)
        # what is left of a vector inside the space is rounding, and spans nothing
        exhausted = height <= rounding
        height = jnp.where(exhausted, 0, height)

        # column k of H, then of R: rotated by the rotations so far, then by one of its own
        rotated = _times(carry.rotations, jnp.where(rows == k + 1, height[:, None], inside))
        above = _at(rotated, k)
        pivot = jnp.hypot(above, height)
        good = carry.active & jnp.isfinite(pivot) & (pivot > rounding)
        pivot = jnp.where(good, pivot, 1)
        rotations = _rotate(carry.rotations, k, above / pivot, height / pivot)
        unit = (columns == k).astype(dtype)
        column = (unit - _times(carry.inverse, rotated[:, :size])) / pivot[:, None]
        first = _at(rotations, k)[:, :1]  # the entry of Q e_1 that no later rotation changes
        weights = jnp.where(good[:, None], carry.weights + first * column, carry.weights)
        residual = jnp.where(good, jnp.abs(_at(rotations, k + 1)[:, 0]), carry.residual)

        overlap = carry.overlap
        if near is not None:
            overlap = jnp.where(columns == k, algebra.dot(newest, near)[:, None], overlap)
        steps = carry.steps + carry.active.astype(jnp.int32)
        active = good & ~exhausted & ~enough(residual, weights, overlap)
        active &= (steps < limit) & (k + 1 < size)
        inverse = lax.dynamic_update_index_in_dim(carry.inverse, column, k, axis=2)
        return _Arnoldi(
            taken=k + 1,
            running=vary(_any(active, axis_name), varying_axes(carry.running)),
            active=active,
            # a sample that has ended gets columns of zeros: 0 * NaN must not reach its x
            basis=store(carry.basis, _normalized(rest, height, active), k + 1),
            rotations=jnp.where(good[:, None, None], rotations, carry.rotations),
            inverse=jnp.where(good[:, None, None], inverse, carry.inverse),
            weights=weights,
            overlap=overlap,
            residual=residual,
            steps=steps,
        )

    start = _first_column(right, length, solvable, size, _any(solvable, axis_name))
    start = vary(start, varying_axes((right, near, tol, limit)))
    end = lax.while_loop(lambda carry: carry.running, advance, start)
    weights = jnp.pad(length[:, None] * end.weights, ((0, 0), (0, 1)))
    value = subtract_weighted(zeros_like(right), end.basis, _vectors(-weights))
    return LinearSolution(value, end.residual, end.steps, end.taken)


def _first_column(
    right: State, length: PerSample, solvable: PerSample, size: int, running: jax.Array
) -> _Arnoldi:
    filled = partial(filled_per_sample, right, dtype=length.dtype)
    first = _normalized(right, length, solvable)
    return _Arnoldi(
        taken=jnp.int32(0),
        running=running,
        active=solvable,
        basis=store(empty_columns(right, size + 1), first, jnp.int32(0)),
        rotations=filled(jnp.eye(size + 1)),
        inverse=filled(jnp.zeros((size, size))),
        weights=filled(jnp.zeros(size)),
        overlap=filled(jnp.zeros(size)),
        residual=filled(1),
        steps=filled(0, dtype=jnp.int32),
    )


def _any(active: PerSample, axis_name: str | None) -> jax.Array:
    """() bool: whether any sample, of any replica, goes on."""
    running: jax.Array = jnp.any(active)
    if axis_name is None:
        return running
    anywhere: jax.Array = lax.pmax(running.astype(jnp.int32), axis_name) > 0
    return anywhere


def _orthogonalize(vector: State, basis: State) -> tuple[jax.Array, State]:
    """Coefficients (batch, m + 1) of the vector in the basis, and what is left of it."""
    once = inner_products(basis, vector)
    rest = subtract_weighted(vector, basis, _vectors(once))
    twice = inner_products(basis, rest)
    return once + twice, subtract_weighted(rest, basis, _vectors(twice))


def _vectors(weights: jax.Array) -> list[PerSample]:
    """The columns of a matrix (batch, count)."""
    return [weights[:, slot] for slot in range(weights.shape[1])]


def _like(state: State, columns: State) -> State:
    """Leaves (batch, features) in the shapes of a state."""
    return jax.tree.map(lambda x, c: c.reshape(x.shape), state, columns)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    result: jax.Array = jnp.sum(a * b, axis=-1)
    return result


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """(batch, i): small matrices (batch, i, j) times vectors (batch, j)."""
    return _dot(matrix, vector[:, None, :])


def _at(array: jax.Array, index: jax.Array) -> jax.Array:
    """Entry of each sample's vector, or row of its matrix."""
    result: jax.Array = lax.dynamic_index_in_dim(array, index, axis=1, keepdims=False)
    return result


def _rotate(matrix: jax.Array, k: jax.Array, cosine: PerSample, sine: PerSample) -> jax.Array:
    """Apply the Givens rotation of rows k and k + 1."""
    upper, lower = _at(matrix, k), _at(matrix, k + 1)
    c, s = cosine[:, None], sine[:, None]
    pair = jnp.stack([c * upper + s * lower, c * lower - s * upper], axis=1)
    result: jax.Array = lax.dynamic_update_slice_in_dim(matrix, pair, k, axis=1)
    return result


def _normalized(vector: State, length: PerSample, mask: PerSample) -> State:
    """The vector over its length, zero outside the mask."""

    def leaf(x: jax.Array) -> jax.Array:
        keep = algebra.per_sample(mask, x)
        scaled = x.astype(length.dtype) / algebra.per_sample(jnp.where(mask, length, 1), x)
        return jnp.where(keep, scaled, 0).astype(x.dtype)

    return jax.tree.map(leaf, vector)
