"""Small symmetric systems, one per sample, solved together without LAPACK.

Library factorizations of many 6 x 6 matrices cost a call each on CPUs and several kernel launches
on GPUs. Elimination is written out instead, in two forms: in vectors over the batch, one per entry,
which an accelerator's compiler fuses into few kernels where each row written into a matrix would be
one; and in matrices for CPUs, whose compiler makes a loop of every vector.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from deqjax._core.types import PerSample, Scalar

# the least squared sine of a column that is taken: an angle of 1e-5
_LEAST_SINE = 1e-10

Triangle: TypeAlias = Sequence[Sequence[PerSample]]
"""A symmetric matrix for each sample: row i has the entries (i, 0) to (i, i), (batch,) each."""


def solve_in_vectors(gram: Triangle, right: Sequence[PerSample], ridge: Scalar) -> list[PerSample]:
    """Ridge-regularized least squares from its Gram matrix, by L D L^T elimination.

    Solves (gram + ridge D) y = right with D = diag(gram), so that ``ridge`` is relative to each
    column's own scale. Columns are taken in their order; one whose squared sine to the span of
    those taken (plus the ridge) is at most 1e-10, or 4 m eps where that is more, is left out: it
    tells nothing new, and would be weighted by rounding.

    Args:
        gram: m rows of a positive semi-definite matrix, float32 or float64.
        right: m vectors (batch,), inner products of the columns with the target.
        ridge: relative Tikhonov weight, 0 or more.

    Returns:
        m weights (batch,), 0 for columns that are zero (an empty slot of a history) or left out;
        not all finite in a sample whose system is not.
    """
    size, least = len(right), _least_sine(len(right), right[0].dtype)
    raised = 1 + jnp.asarray(ridge, right[0].dtype)
    matrix = [[*row[:-1], raised * row[-1]] for row in gram]
    right = list(right)
    factors: list[list[PerSample]] = []  # column j of L below the diagonal
    inverses: list[PerSample] = []  # of D; 0 leaves a column out
    for j in range(size):
        inverse = _inverse(matrix[j][j], least * gram[j][j])
        column = [row[j] for row in matrix[j + 1 :]]
        factor = [entry * inverse for entry in column]
        for i in range(j + 1, size):
            for k in range(j + 1, i + 1):
                matrix[i][k] = matrix[i][k] - factor[i - j - 1] * column[k - j - 1]
            right[i] = right[i] - factor[i - j - 1] * right[j]
        factors.append(factor)
        inverses.append(inverse)
    solution: list[PerSample] = []  # from the last column to the first
    for j in reversed(range(size)):
        value = inverses[j] * right[j]
        for entry, found in zip(reversed(factors[j]), solution, strict=True):
            value = value - entry * found
        solution.append(value)
    return solution[::-1]


def solve_in_matrices(gram: jax.Array, right: jax.Array, ridge: Scalar) -> jax.Array:
    """What `solve_in_vectors` solves, by Gauss-Jordan elimination of whole matrices.

    Args:
        gram: (batch, m, m) symmetric.
        right: (batch, m).
        ridge: relative Tikhonov weight, 0 or more.

    Returns:
        Weights (batch, m).
    """
    size, least = right.shape[1], _least_sine(right.shape[1], right.dtype)
    square = jnp.diagonal(gram, axis1=1, axis2=2).T  # (m, batch)
    # batch last: each operation is one long vector per matrix entry
    rows = jnp.concatenate([gram, right[:, :, None]], axis=2).transpose(1, 2, 0)
    index = jnp.arange(size)
    for j in range(size):
        inverse = _inverse(rows[j, j] + ridge * square[j], least * square[j])
        normalized = rows[j] * inverse[None]
        others = jnp.where((index == j)[:, None], 0, rows[:, j])  # (m, batch)
        rows = rows - others[:, None] * normalized[None]
        rows = rows.at[j].set(normalized)
    return rows[:, size].T


def _least_sine(size: int, dtype: Any) -> float:
    """The least squared sine of a column that is taken."""
    return max(_LEAST_SINE, 4 * size * float(jnp.finfo(dtype).eps))


def _inverse(pivot: PerSample, least: PerSample) -> PerSample:
    """1 / pivot, or 0 where it is too small; a NaN goes on.

    Over the column's square, a pivot is the squared sine between it and the span of those before.
    """
    left_out = pivot <= least
    inverse: PerSample = jnp.where(left_out, 0, 1 / jnp.where(left_out, 1, pivot))
    return inverse
