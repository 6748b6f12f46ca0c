"""Small symmetric systems, one per sample, solved together without LAPACK.

Elimination written in elementwise operations on vectors of the whole batch becomes one fused
kernel; library factorizations of many 6 x 6 matrices cost a call each on CPUs and several kernel
launches on GPUs, and so does every slice that is written into a matrix.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp

from deqjax._core.types import PerSample, Scalar

# the least squared sine of a column that is taken: an angle of 1e-5
_LEAST_SINE = 1e-10

Triangle: TypeAlias = Sequence[Sequence[PerSample]]
"""A symmetric matrix for each sample: row i has the entries (i, 0) to (i, i), (batch,) each."""


def solve_normal_equations(
    gram: Triangle, right: Sequence[PerSample], ridge: Scalar, known
) -> list[PerSample]:
    """Ridge-regularized least squares from its Gram matrix, column scales removed first.

    With D = diag(gram): solves (D^-1/2 gram D^-1/2 + ridge I) y = D^-1/2 right and returns
    D^-1/2 y, so ``ridge`` is relative to each column's own scale. Columns are taken in their order;
    one whose squared sine to the span of those taken (plus the ridge) is at most 1e-10, or 4 m eps
    where that is more, is left out: it tells nothing new, and would be weighted by rounding.

    Args:
        gram: m rows of a positive semi-definite matrix, float32 or float64.
        right: m vectors (batch,), inner products of the columns with the target.
        ridge: relative Tikhonov weight, 0 or more.

    Returns:
        m weights (batch,), 0 for columns that are zero (an empty slot of a history) or left out,
        and for all columns of a sample whose system is not finite.
    """
    size, dtype = len(right), right[0].dtype
    matrix = [list(row) for row in gram]
    right = list(right)
    least = max(_LEAST_SINE, 4 * size * float(jnp.finfo(dtype).eps))
    ridge = jnp.asarray(ridge, dtype)
    squares = [row[-1] for row in gram]
    for i in range(size):
        matrix[i][i] = squares[i] * (1 + ridge)
    factors: list[list[PerSample]] = []  # row j: L_ij for i > j
    inverses = []
    for j in range(size):
        # with unit diagonal a pivot is the squared sine between a column and the span of those
        # before; a NaN goes on
        pivot = matrix[j][j]
        left_out = (pivot <= least * squares[j]) | ~known[j]
        inverse = jnp.where(left_out, 0, 1 / jnp.where(left_out, 1, pivot))
        column = [matrix[i][j] for i in range(j + 1, size)]
        factor = [entry * inverse for entry in column]
        for a, i in enumerate(range(j + 1, size)):
            for b, k in enumerate(range(j + 1, i + 1)):
                matrix[i][k] = matrix[i][k] - factor[a] * column[b]
            right[i] = right[i] - factor[a] * right[j]
        factors.append(factor)
        inverses.append(inverse)
    solution: list[PerSample] = []  # from the last column to the first
    for j in reversed(range(size)):
        value = inverses[j] * right[j]
        for factor_of, found in zip(reversed(factors[j]), solution, strict=True):
            value = value - factor_of * found
        solution.append(value)
    return solution[::-1]
