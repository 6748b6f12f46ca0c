"""Eigenvalues of small Hessenberg matrices, one per sample, by the shifted QR algorithm.

Written out in rotations of two rows, so that it runs wherever JAX does: `jnp.linalg.eigvals` does
not exist on every accelerator.
"""

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.types import PerSample

_PASSES_PER_EIGENVALUE = 30  # two or three are the rule
_STALLED = 10  # passes after which a shift of another kind breaks a cycle


@jax.jit
def largest_modulus(hessenberg: jax.Array) -> PerSample:
    """Largest |eigenvalue| of each real upper Hessenberg matrix; (batch,).

    The QR algorithm with Wilkinson's shifts in complex arithmetic (Golub & Van Loan, Matrix
    Computations, 4th ed., sections 7.4 and 7.5). It is backward stable: the eigenvalues are those
    of a matrix within rounding of the given one, also where that is far from normal.

    Args:
        hessenberg: (batch, m, m), float32 or float64.

    Returns:
        (batch,) of the same dtype; NaN where the matrix has an entry that is not finite.
    """
    size = hessenberg.shape[-1]
    finite = jnp.all(jnp.isfinite(hessenberg), axis=(1, 2))
    largest = jnp.max(jnp.abs(hessenberg), axis=(1, 2))
    scale = jnp.where(finite & (largest > 0), largest, 1)
    usable = jnp.where(finite[:, None, None], hessenberg, 0) / scale[:, None, None]
    triangular = _schur_form(usable) if size > 1 else usable
    eigenvalues = jnp.diagonal(triangular, axis1=1, axis2=2)
    done = jnp.all(_below(triangular) == 0, axis=1)
    radius: PerSample = jnp.where(
        finite & done, scale * jnp.max(jnp.abs(eigenvalues), axis=1), jnp.nan
    )
    return radius


def _schur_form(hessenberg: jax.Array) -> jax.Array:
    """(batch, m, m) complex, unitarily similar and upper triangular once all has converged."""
    size = hessenberg.shape[-1]
    start = _deflated(lax.complex(hessenberg, jnp.zeros_like(hessenberg)))

    def running(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        taken, h = carry
        unfinished: jax.Array = jnp.any(_below(h) != 0)
        return unfinished & (taken < _PASSES_PER_EIGENVALUE * size)

    def advance(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        taken, h = carry
        bottom = _last_nonzero(_below(h))
        shift = _shift(h, bottom, taken % _STALLED == _STALLED - 1)
        # what has converged gets no shift: adding it back would round the eigenvalues once more
        active = jnp.arange(size)[None] <= bottom[:, None]
        shifts = _diagonal_matrix(jnp.where(active, shift[:, None], 0), offset=0)
        return taken + 1, _deflated(_qr_step(h - shifts) + shifts)

    return lax.while_loop(running, advance, (jnp.int32(0), start))[1]


def _diagonal_matrix(values: jax.Array, offset: int) -> jax.Array:
    """(batch, m, m) with the values (batch, m) on a diagonal, each in the row of its index."""
    size = values.shape[1]
    where = jnp.eye(size, k=offset, dtype=bool)[None]
    return jnp.where(where, values[:, :, None], jnp.zeros((), values.dtype))


def _below(h: jax.Array) -> jax.Array:
    """(batch, m - 1), the subdiagonal."""
    below: jax.Array = jnp.diagonal(h, offset=-1, axis1=1, axis2=2)
    return below


def _deflated(h: jax.Array) -> jax.Array:
    """Set what a rounding of the diagonal could have been to zero."""
    eps = float(jnp.finfo(h.dtype).eps)
    diagonal = jnp.abs(jnp.diagonal(h, axis1=1, axis2=2))
    # entries are at most about 1; a diagonal of zeros needs a scale too
    negligible = jnp.abs(_below(h)) <= eps * (diagonal[:, :-1] + diagonal[:, 1:] + eps)
    return jnp.where(_diagonal_matrix(jnp.pad(negligible, ((0, 0), (1, 0))), offset=-1), 0, h)


def _last_nonzero(below: jax.Array) -> jax.Array:
    """(batch,) row of the last subdiagonal entry that is not zero; 0 if all are."""
    rows = jnp.arange(1, below.shape[1] + 1)[None]
    return jnp.max((below != 0).astype(rows.dtype) * rows, axis=1)


def _shift(h: jax.Array, bottom: jax.Array, stalled: jax.Array) -> jax.Array:
    """(batch,) complex: Wilkinson's shift, or one that ends a cycle.

    It is the eigenvalue next to d of [[a, b], [c, d]], the last block of the active matrix.
    """
    row = jnp.maximum(bottom, 1)
    pair = jnp.stack([row - 1, row], axis=1)
    block = jax.vmap(lambda h, i: h[i][:, i])(h, pair)
    a, b, c, d = block[:, 0, 0], block[:, 0, 1], block[:, 1, 0], block[:, 1, 1]
    half = (a - d) / 2
    root = jnp.sqrt(half**2 + b * c)
    root = jnp.where((half.conj() * root).real < 0, -root, root)
    far = half + root
    wilkinson = d - jnp.where(far == 0, 0, b * c / jnp.where(far == 0, 1, far))
    exceptional = d + 0.75 * jnp.abs(c).astype(c.dtype)
    return jnp.where(bottom > 0, jnp.where(stalled, exceptional, wilkinson), 0)


def _qr_step(h: jax.Array) -> jax.Array:
    """R Q of the factorization Q R of h, by Givens rotations."""
    columns = jnp.arange(h.shape[-1] - 1)

    def left(h: jax.Array, k: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        rows = lax.dynamic_slice_in_dim(h, k, 2, axis=1)
        c, s = _givens(lax.dynamic_index_in_dim(rows, k, axis=2))
        upper, lower = rows[:, :1], rows[:, 1:]
        rows = jnp.concatenate([c.conj() * upper + s.conj() * lower, c * lower - s * upper], axis=1)
        return lax.dynamic_update_slice_in_dim(h, rows, k, axis=1), (c, s)

    def right(
        h: jax.Array, step: tuple[jax.Array, tuple[jax.Array, jax.Array]]
    ) -> tuple[jax.Array, None]:
        k, (c, s) = step
        pair = lax.dynamic_slice_in_dim(h, k, 2, axis=2)
        left, right = pair[:, :, :1], pair[:, :, 1:]
        pair = jnp.concatenate([c * left + s * right, c.conj() * right - s.conj() * left], axis=2)
        return lax.dynamic_update_slice_in_dim(h, pair, k, axis=2), None

    triangular, rotations = lax.scan(left, h, columns)
    product, _ = lax.scan(right, jnp.triu(triangular), (columns, rotations))
    return product


def _givens(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The c and s, (batch, 1, 1), of the unitary [[c*, s*], [-s, c]] taking x to (|x|, 0)."""
    a, b = x[:, :1], x[:, 1:]
    needed = jnp.abs(b) > 0
    length = jnp.where(needed, jnp.sqrt(jnp.abs(a) ** 2 + jnp.abs(b) ** 2), 1).astype(x.dtype)
    return jnp.where(needed, a, 1) / length, jnp.where(needed, b, 0) / length
