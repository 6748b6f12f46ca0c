"""Inverses of small matrices that exchange one row and one column, one matrix per sample.

Sums over the m indices are written out on vectors of the whole batch: XLA makes one kernel of them,
where every reduction or slice write would be a kernel of its own.
"""

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.types import PerSample


class Exchanged(NamedTuple):
    """The inverse after an exchange, as it was where the exchange is unsound."""

    inverse: jax.Array  # (batch, m, m)
    product: list[PerSample]  # the inverse's with the target, m vectors (batch,)
    sound: PerSample  # (batch,) bool


class Entering(NamedTuple):
    """What comes to index ``slot`` of a matrix M, in units in which the corner may be tiny."""

    row: jax.Array  # (batch, m); what it has at the slot is not looked at
    column: jax.Array  # like row
    corner: PerSample  # (batch,) the entry that they share
    row_length: PerSample  # (batch,) what the row, with the corner, is to be divided by
    column_length: PerSample


def exchange(
    inverse: jax.Array,
    slot: jax.Array,
    entering: Entering,
    target: jax.Array,
    target_entry: PerSample,
    allowed: PerSample,
    least: float,
) -> Exchanged:
    """Replace one row and one column of M, given M's inverse N, and solve M' x = target.

    With a = N e_o and b = e_o^T N of the old index o, p = N u and r = v^T N of the new column u and
    row v without their corner d, nu = N_oo, gamma = d - v^T p and delta = nu gamma + p_o r_o,

        N' = N - (gamma a b^T + p_o a r^T + r_o p b^T - nu p r^T) / delta,

    in which a_o = b_o = 0 and p_o = r_o = -1, and row and column o of N are zero: index o is taken
    out and the new one bordered on at once, so that what is left of M alone may be singular. delta
    is det M' / det M. Rounding errors in row i of M N do not outlive index i.

    Args:
        inverse: N, (batch, m, m), float32 or float64; zero in rows and columns of empty indices.
        slot: o, () or (batch,) int32.
        entering: u, v and d.
        target: (batch, m); what it has at the slot is not looked at.
        target_entry: (batch,) what the target has there, in the row's units.
        allowed: (batch,) bool, samples whose matrix may be changed at all.
        least: an exchange that may bring numbers above 1 / ``least`` is unsound.
    """
    row, column, corner, row_length, column_length = entering
    count = inverse.shape[1]
    here = jnp.atleast_1d(slot)[:, None] == jnp.arange(count, dtype=slot.dtype)[None]
    in_row, in_column = here[:, :, None], here[:, None, :]
    # these fuse: one pass over the matrices
    beside = jnp.where(in_column, 0, inverse)
    a_ = jnp.sum(jnp.where(in_column, inverse, 0), axis=2)
    b_ = jnp.sum(jnp.where(in_row, inverse, 0), axis=1)
    p_ = jnp.sum(beside * column[:, None, :], axis=2)
    r_ = jnp.sum(jnp.where(in_row, 0, inverse) * row[:, :, None], axis=1)
    x_ = jnp.sum(beside * target[:, None, :], axis=2)

    a, b, p, r, x, v, t = (
        [each[:, i] for i in range(count)] for each in (a_, b_, p_, r_, x_, row, target)
    )
    is_slot = [slot == i for i in range(count)]

    def at_slot(values: Sequence[PerSample]) -> PerSample:
        return functools.reduce(
            lambda found, each: jnp.where(each[0], each[1], found),
            zip(is_slot, values, strict=True),
            jnp.zeros_like(values[0]),
        )

    def with_slot(values: Sequence[PerSample], entry: PerSample) -> list[PerSample]:
        return [jnp.where(h, entry, value) for h, value in zip(is_slot, values, strict=True)]

    def dot(values: Sequence[PerSample], others: Sequence[PerSample]) -> PerSample:
        return functools.reduce(operator.add, map(operator.mul, values, others))

    zero = jnp.zeros_like(corner)
    # nothing is in an index that is empty: as if its row and column were those of the identity
    empty = functools.reduce(jnp.maximum, map(jnp.abs, a)) == 0
    nu, p_o, r_o, x_o, t_o = (at_slot(each) for each in (a, p, r, x, t))
    nu = jnp.where(empty, 1, nu)
    gamma = corner - dot(with_slot(v, zero), p)
    delta = nu * gamma + p_o * r_o
    a, b = with_slot(a, zero), with_slot(b, zero)
    p, r_now = with_slot(p, -column_length), with_slot(r, -row_length)

    def peak(values: Sequence[PerSample]) -> PerSample:
        return functools.reduce(jnp.maximum, map(jnp.abs, lax.stop_gradient(values)))

    growth = peak(a) * (abs(gamma) * peak(b) + abs(p_o) * peak(r_now)) + peak(p) * (
        abs(r_o) * peak(b) + abs(nu) * peak(r_now)
    )
    sound = allowed & (least * growth < abs(delta))
    safe = jnp.where(sound, delta, 1)
    share = [jnp.where(sound, each / safe, 0) for each in (gamma, p_o, r_o, -nu)]
    along_b, along_r = x_o, dot(with_slot(t, zero), r) - target_entry
    of_a = share[0] * along_b + share[1] * along_r
    of_p = share[2] * along_b + share[3] * along_r
    kept = jnp.where(sound, 0, t_o)
    product = [
        jnp.where(h & sound, 0, x_i) + kept * a_all - (of_a * a_i + of_p * p_i)
        for h, x_i, a_all, a_i, p_i in zip(
            is_slot, x, [a_[:, i] for i in range(count)], a, p, strict=True
        )
    ]

    def tall(values: jax.Array, entry: PerSample) -> jax.Array:
        return jnp.where(in_row, entry[:, None, None], values[:, :, None])

    def wide(values: jax.Array, entry: PerSample) -> jax.Array:
        return jnp.where(in_column, entry[:, None, None], values[:, None, :])

    gamma_, p_o_, r_o_, nu_ = (each[:, None, None] for each in share)
    a2, p2 = tall(a_, zero), tall(p_, -column_length)
    b2, r2 = wide(b_, zero), wide(r_, -row_length)
    removed = sound[:, None, None] & (in_row | in_column)
    new = (
        jnp.where(removed, 0, inverse)
        - gamma_ * (a2 * b2)
        - p_o_ * (a2 * r2)
        - r_o_ * (p2 * b2)
        - nu_ * (p2 * r2)
    )
    return Exchanged(new, product, sound)
