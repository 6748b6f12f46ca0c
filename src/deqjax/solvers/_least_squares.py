"""Small symmetric systems, one per sample, solved together without LAPACK.

Elimination written in elementwise operations runs over the whole batch at once; library
factorizations of many 6 x 6 matrices cost a call each on CPUs and several kernel launches on GPUs.
"""

import jax
import jax.numpy as jnp

# the least squared sine of a column that is taken: an angle of 1e-5
_LEAST_SINE = 1e-10


def solve_normal_equations(
    gram: jax.Array, right: jax.Array, ridge: float | jax.Array
) -> jax.Array:
    """Ridge-regularized least squares from its Gram matrix, column scales removed first.

    With D = diag(gram): solves (D^-1/2 gram D^-1/2 + ridge I) y = D^-1/2 right and returns
    D^-1/2 y, so ``ridge`` is relative to each column's own scale. Columns are taken in their order;
    one whose squared sine to the span of those taken (plus the ridge) is at most 1e-10, or 4 m eps
    where that is more, is left out: it tells nothing new, and would be weighted by rounding.

    Args:
        gram: (batch, m, m) symmetric positive semi-definite, float32 or float64.
        right: (batch, m) inner products of the columns with the target.
        ridge: relative Tikhonov weight, 0 or more.

    Returns:
        Weights (batch, m), 0 for columns that are zero (an empty slot of a history) or left out,
        and for all columns of a sample whose system is not finite.
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
    least = max(_LEAST_SINE, 4 * size * float(jnp.finfo(gram.dtype).eps))
    weights = inverse_scale * _eliminate(matrix, inverse_scale * right, least)
    finite = jnp.all(jnp.isfinite(weights), axis=1)
    return jnp.where(finite[:, None], weights, 0)


def _eliminate(matrix: jax.Array, right: jax.Array, least: float) -> jax.Array:
    """Gauss-Jordan elimination of symmetric systems; y_j = 0 where a pivot is at most ``least``."""
    size = matrix.shape[-1]
    # batch last: each operation is one long vector per matrix entry
    rows = jnp.concatenate([matrix, right[:, :, None]], axis=2).transpose(1, 2, 0)
    for j in range(size):
        # with unit diagonal a pivot is the squared sine between a column and the span of those
        # before; a NaN goes on
        pivot = rows[j, j][None]
        left_out = pivot <= least
        normalized = jnp.where(left_out, 0, rows[j] / jnp.where(left_out, 1, pivot))
        others = jnp.where((jnp.arange(size) == j)[:, None], 0, rows[:, j])  # (m, batch)
        rows = rows - others[:, None] * normalized[None]
        rows = rows.at[j].set(normalized)
    return rows[:, size].T
