"""Inverses of small matrices that exchange one row and one column, one matrix per sample."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.types import PerSample


class Entering(NamedTuple):
    """What comes to index ``slot`` of a matrix M, in units in which the corner may be tiny."""

    row: jax.Array  # (batch, m); what it has at the slot is not looked at
    column: jax.Array  # like row
    corner: PerSample  # (batch,) the entry that they share
    row_length: PerSample  # (batch,) what the row, with the corner, is to be divided by
    column_length: PerSample


def exchange(
    inverse: jax.Array,
    slot: PerSample,
    entering: Entering,
    target: jax.Array,
    target_entry: PerSample,
    allowed: PerSample,
    least: float,
) -> tuple[jax.Array, jax.Array, PerSample]:
    """Replace one row and one column of M, given M's inverse N, and solve M' x = target."""
    row, column, corner, row_length, column_length = entering
    shape = (1, *inverse.shape[1:])
    mark = slot[:, None, None]
    in_row, in_column = (lax.broadcasted_iota(slot.dtype, shape, axis) == mark for axis in (1, 2))
    # these fuse: one pass over the matrices
    beside_row, beside_column = jnp.where(in_row, 0, inverse), jnp.where(in_column, 0, inverse)
    by_column = beside_column * column[:, None, :]
    by_row = beside_row * row[:, :, None]
    at_column = jnp.where(in_column, inverse, 0)
    a = jnp.sum(at_column, axis=2)
    b = jnp.sum(jnp.where(in_row, inverse, 0), axis=1)
    p = jnp.sum(by_column, axis=2)
    r = jnp.sum(by_row, axis=1)
    nu = jnp.sum(jnp.where(in_row, at_column, 0), axis=(1, 2))
    p_o = jnp.sum(jnp.where(in_row, by_column, 0), axis=(1, 2))
    r_o = jnp.sum(jnp.where(in_column, by_row, 0), axis=(1, 2))
    v_p = jnp.sum(jnp.where(in_row, 0, by_column * row[:, :, None]), axis=(1, 2))
    used = lax.stop_gradient(jnp.max(jnp.abs(at_column), axis=(1, 2)))

    # nothing is in an index that is empty: as if its row and column were those of the identity
    nu = jnp.where(used == 0, 1, nu)
    gamma = corner - v_p
    delta = nu * gamma + p_o * r_o
    sound = allowed & (abs(delta) > least * row_length * column_length * jnp.maximum(abs(nu), 1))
    part = jnp.where(sound, 1, 0) / jnp.where(sound, delta, 1)
    corner_p, corner_r, target_entry = -column_length, -row_length, target_entry / row_length
    gamma, p_o, r_o, nu, part, sound, corner_p, corner_r, target_entry = lax.optimization_barrier(
        (gamma, p_o, r_o, nu, part, sound, corner_p, corner_r, target_entry))
    wide = lambda values: values[:, None, None]
    a2, p2 = jnp.where(in_row, 0, a[:, :, None]), jnp.where(in_row, wide(corner_p), p[:, :, None])
    b2, r2 = jnp.where(in_column, 0, b[:, None, :]), jnp.where(in_column, wide(corner_r), r[:, None, :])
    change = (
        wide(gamma) * (a2 * b2)
        + wide(p_o) * (a2 * r2)
        + wide(r_o) * (p2 * b2)
        - wide(nu) * (p2 * r2)
    )
    new = jnp.where(wide(sound) & (in_row | in_column), 0, inverse) - wide(part) * change
    now = jnp.where(wide(sound) & in_column, wide(target_entry), target[:, None, :])
    return new, jnp.sum(new * now, axis=2), sound
