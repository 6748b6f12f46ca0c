"""Inverses of small matrices that exchange a row and a column, one matrix per sample.

M^-1 itself is kept: the exchange is a rank-two update of it, two kernels on accelerators whatever
the size, where elimination takes two or more for each row. Rounding does not pile up: an error in
row i of M M^-1 - I stays in that row, and goes when index i is exchanged.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.types import PerSample


class Entering(NamedTuple):
    """The row v and the column u that a matrix gets, both to be divided by a length."""

    row: jax.Array  # (batch, m); what stands at the index itself is not looked at
    column: jax.Array  # like row
    corner: PerSample  # (batch,) the entry d that they share
    row_length: PerSample  # (batch,) above 0, divides the row and the corner
    column_length: PerSample  # (batch,) above 0, divides the column and the corner


class Exchanged(NamedTuple):
    inverse: jax.Array  # (batch, m, m)
    product: jax.Array  # (batch, m), the inverse's with a vector
    sound: PerSample  # (batch,) bool; where it is not, the matrix is as it was
    largest: PerSample  # (batch,) magnitude of the inverse's entries


def exchange(
    inverse: jax.Array,
    index: PerSample,
    entering: Entering,
    vector: jax.Array,
    entry: PerSample,
    allowed: PerSample,
    least: float,
) -> Exchanged:
    """Give M another row and column at an index, and multiply its inverse N with a vector.

    Index o leaves M and the new one takes its place. With a = N e_o, b^T = e_o^T N, p = N u,
    r^T = v^T N, nu = N_oo, gamma = d - v^T N u, where u_o = v_o = 0, and delta = det M' / det M,

        delta = nu gamma + p_o r_o,
        N' = N - (gamma a b^T + p_o a r^T + r_o p b^T - nu p r^T) / delta

    with row and column o of N taken for zero, a_o = b_o = 0 and p_o = r_o = -1: two bordering
    steps, one backward and one forward, as one, so that M without index o may be singular.

    Args:
        inverse: N, (batch, m, m), float32 or float64; zero in rows and columns of empty indices.
        index: o, (batch,) int32.
        entering: u, v and d.
        vector: (batch, m) what N' is multiplied with, but for
        entry: (batch,) what comes to its index o where the exchange is sound.
        allowed: (batch,) bool, samples whose matrix may change.
        least: |delta| that is needed, with nu taken for 1 if it is larger, for an exchange to be
            sound.
    """
    row, column, corner, row_length, column_length = entering
    shape = (1, *inverse.shape[1:])
    in_row, in_column = (
        lax.broadcasted_iota(index.dtype, shape, axis) == index[:, None, None] for axis in (1, 2)
    )
    # all sums in one pass over the matrices: those of vectors would be one more
    leaving = jnp.where(in_column, inverse, 0)
    by_column = jnp.where(in_column, 0, inverse) * column[:, None, :]
    by_row = jnp.where(in_row, 0, inverse) * row[:, :, None]
    a, p = jnp.sum(leaving, axis=2), jnp.sum(by_column, axis=2)
    b, r = jnp.sum(jnp.where(in_row, inverse, 0), axis=1), jnp.sum(by_row, axis=1)
    nu = jnp.sum(jnp.where(in_row, leaving, 0), axis=(1, 2))
    p_o = jnp.sum(jnp.where(in_row, by_column, 0), axis=(1, 2))
    r_o = jnp.sum(jnp.where(in_column, by_row, 0), axis=(1, 2))
    v_n_u = jnp.sum(jnp.where(in_column, 0, by_row) * column[:, None, :], axis=(1, 2))
    used = lax.stop_gradient(jnp.max(jnp.abs(leaving), axis=(1, 2)))

    # an empty index leaves as if its row and column were those of the identity
    nu = jnp.where(used > 0, nu, 1)
    gamma = corner - v_n_u
    delta = nu * gamma + p_o * r_o
    enough = least * row_length * column_length * jnp.maximum(jnp.abs(nu), 1)
    sound = allowed & (jnp.abs(delta) > enough)
    share = jnp.where(sound, 1, 0) / jnp.where(sound, delta, 1)
    p_at, r_at, entry = -column_length, -row_length, entry / row_length
    numbers = (gamma, p_o, r_o, nu, share, sound, p_at, r_at, entry)
    # formed once, not again for each entry of N'
    a, b, p, r, numbers = lax.optimization_barrier((a, b, p, r, numbers))
    gamma, p_o, r_o, nu, share, sound, p_at, r_at, entry = (n[:, None, None] for n in numbers)
    a, p = jnp.where(in_row, 0, a[:, :, None]), jnp.where(in_row, p_at, p[:, :, None])
    b, r = jnp.where(in_column, 0, b[:, None, :]), jnp.where(in_column, r_at, r[:, None, :])
    change = gamma * (a * b) + p_o * (a * r) + r_o * (p * b) - nu * (p * r)
    inverse = jnp.where(sound & (in_row | in_column), 0, inverse) - share * change
    factors = jnp.where(sound & in_column, entry, vector[:, None, :])
    product = jnp.sum(inverse * factors, axis=2)
    largest = lax.stop_gradient(jnp.max(jnp.abs(inverse), axis=(1, 2)))
    return Exchanged(inverse, product, numbers[5], largest)
