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
    allowed: PerSample,
    least: float,
) -> tuple[jax.Array, PerSample]:
    """Replace one row and one column of M, given M's inverse N, and solve M' x = target."""
    row, column, corner, row_length, column_length = entering
    shape = (1, *inverse.shape[1:])
    mark = slot[:, None, None]
    in_row, in_column = (lax.broadcasted_iota(slot.dtype, shape, axis) == mark for axis in (1, 2))
    here = lax.broadcasted_iota(slot.dtype, shape[:2], 1) == slot[:, None]
    # these fuse: one pass over the matrices
    a = jnp.sum(jnp.where(in_column, inverse, 0), axis=2)
    b = jnp.sum(jnp.where(in_row, inverse, 0), axis=1)
    p = jnp.sum(jnp.where(in_column, 0, inverse) * column[:, None, :], axis=2)
    r = jnp.sum(jnp.where(in_row, 0, inverse) * row[:, :, None], axis=1)

    def at_slot(values: jax.Array) -> PerSample:
        return jnp.sum(jnp.where(here, values, 0), axis=1)

    def beside(values: jax.Array) -> jax.Array:
        return jnp.where(here, 0, values)

    def peak(values: jax.Array) -> PerSample:
        return lax.stop_gradient(jnp.max(jnp.abs(values), axis=1))

    nu, p_o, r_o = (at_slot(each) for each in (a, p, r))
    v_p = jnp.sum(beside(row) * p, axis=1)
    peak_a, peak_b, peak_p, peak_r = (peak(beside(each)) for each in (a, b, p, r))

    # nothing is in an index that is empty: as if its row and column were those of the identity
    nu = jnp.where((nu == 0) & (peak_a == 0), 1, nu)
    gamma = corner - v_p
    delta = nu * gamma + p_o * r_o
    peak_p, peak_r = jnp.maximum(peak_p, column_length), jnp.maximum(peak_r, row_length)
    growth = peak_a * (abs(gamma) * peak_b + abs(p_o) * peak_r)
    growth += peak_p * (abs(r_o) * peak_b + abs(nu) * peak_r)
    sound = allowed & (least * growth < abs(delta))
    part = jnp.where(sound, 1, 0) / jnp.where(sound, delta, 1)
    share = tuple(each * part for each in (gamma, p_o, r_o, nu))
    share, sound, row_length, column_length = lax.optimization_barrier((share, sound, row_length, column_length))
    wide = lambda values: values[:, None, None]
    a2, p2 = jnp.where(in_row, 0, a[:, :, None]), jnp.where(in_row, -wide(column_length), p[:, :, None])
    b2, r2 = jnp.where(in_column, 0, b[:, None, :]), jnp.where(in_column, -wide(row_length), r[:, None, :])
    new = (
        jnp.where(wide(sound) & (in_row | in_column), 0, inverse)
        - wide(share[0]) * (a2 * b2)
        - wide(share[1]) * (a2 * r2)
        - wide(share[2]) * (p2 * b2)
        + wide(share[3]) * (p2 * r2)
    )
    return new, sound
