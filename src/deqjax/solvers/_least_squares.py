"""Small symmetric systems, one per sample, solved together without LAPACK.

Elimination written in elementwise operations runs over the whole batch at once; library
factorizations of many 6 x 6 matrices cost a call each on CPUs and several kernel launches on GPUs.
"""

import jax
import jax.numpy as jnp

from deqjax._types import PerSample


def solve_normal_equations(
    gram: jax.Array, right: jax.Array, ridge: float | jax.Array
) -> tuple[jax.Array, PerSample]:
    """Ridge-regularized least squares from its Gram matrix, column scales removed first.

    With D = diag(gram): solves (D^-1/2 gram D^-1/2 + ridge I) y = D^-1/2 right and returns
    D^-1/2 y, so ``ridge`` is relative to each column's own scale. A column of zeros (an empty slot
    of a history) gets weight 0.

    Args:
        gram: (batch, m, m) symmetric positive semi-definite, float32 or float64.
        right: (batch, m) inner products of the columns with the target.
        ridge: relative Tikhonov weight, 0 or more.

    Returns:
        Weights (batch, m), finite for every sample, and (batch,) bool: whether the system was
        well-conditioned. Where it was not, the weights are 0.
    """
    size = gram.shape[-1]
    square = jnp.diagonal(gram, axis1=1, axis2=2)  # (batch, m)
    used = (square > 0) & jnp.isfinite(square)
    inverse_scale = jnp.where(used, 1 / jnp.sqrt(jnp.where(used, square, 1)), 0)
    identity = jnp.eye(size, dtype=gram.dtype)
    # an unused column becomes the equation y = 0
    matrix = jnp.where(
        identity[None] > 0,
        1 + jnp.asarray(ridge, gram.dtype),
        inverse_scale[:, :, None] * gram * inverse_scale[:, None, :],
    )
    weights, smallest_pivot = _eliminate(matrix, inverse_scale * right)
    # with unit diagonal a pivot is the squared sine between a column and the span of those before
    well = jnp.greater(smallest_pivot, 4 * size * jnp.finfo(gram.dtype).eps)
    weights = inverse_scale * weights
    well &= jnp.all(jnp.isfinite(weights), axis=1)
    return jnp.where(well[:, None], weights, 0), well


def _eliminate(matrix: jax.Array, right: jax.Array) -> tuple[jax.Array, PerSample]:
    """Gauss-Jordan elimination of symmetric positive definite systems: solution, smallest pivot."""
    size = matrix.shape[-1]
    # batch last: each operation is one long vector per matrix entry
    rows = jnp.concatenate([matrix, right[:, :, None]], axis=2).transpose(1, 2, 0)
    smallest = jnp.full((matrix.shape[0],), jnp.inf, matrix.dtype)
    for j in range(size):
        pivot = rows[j, j]
        smallest = jnp.minimum(smallest, jnp.where(jnp.isnan(pivot), -jnp.inf, pivot))
        normalized = rows[j] / jnp.where(pivot > 0, pivot, 1)[None]  # (m + 1, batch)
        others = jnp.where((jnp.arange(size) == j)[:, None], 0, rows[:, j])  # (m, batch)
        rows = rows - others[:, None] * normalized[None]
        rows = rows.at[j].set(normalized)
    return rows[:, size].T, smallest
