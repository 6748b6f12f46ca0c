"""Anderson acceleration, type II, one least-squares problem per sample."""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from deqjax import _tree
from deqjax._types import Map, Scalar, State
from deqjax.solvers._least_squares import solve_normal_equations
from deqjax.solvers._loop import LoopOptions, iterate
from deqjax.solvers._solution import Solution
from deqjax.solvers._validate import check_count, check_not_negative


class _History(NamedTuple):
    """The last m differences; slot j of step k is k mod m. Empty slots are zero."""

    residual: State  # g_(k-1) = f(z_(k-1)) - z_(k-1)
    damped: State  # z_(k-1) + damping g_(k-1)
    residual_steps: State  # dG, leaves (batch, m, features): g_k - g_(k-1)
    damped_steps: State  # dY, leaves (batch, m, features): dZ + damping dG
    gram: jax.Array  # (batch, m, m), inner products of the columns of dG over all leaves


def anderson(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    history: int = 6,
    ridge: Scalar = 1e-5,
    damping: Scalar = 1.0,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) by Anderson acceleration of type II.

    With g_k = f(z_k) - z_k and the last m differences dZ, dG of iterates and residuals,

        gamma_k = argmin ||g_k - dG gamma||^2,
        z_(k+1) = z_k + damping g_k - (dZ + damping dG) gamma_k

    (Walker & Ni, SIAM J. Numer. Anal. 2011, section 2; Anderson, J. ACM 1965). Differences keep
    digits that a Gram matrix of the residuals themselves would cancel. Each sample has its own
    gamma; its Gram matrix gains one row a step. Where a sample's system is ill-conditioned even
    with the ridge, that sample takes the plain damped step.

    Memory: 2 m + 4 times |z|. Cost per step: one evaluation of f and about 4 m |z| multiply-adds.
    For linear f it matches GMRES(m); it may stall where the Jacobian is far from normal, and radii
    above 1 are within reach only if few eigenvalues lie outside the unit circle.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most updates of z, at least 1; may be traced.
        history: number m of differences kept, static.
        ridge: Tikhonov weight of the least-squares problem, relative to each column's scale.
        damping: step length along the residual in (0, 1]; 1 is undamped.
        **options: see :class:`deqjax.solvers.LoopOptions`.

    Returns:
        :class:`deqjax.Solution` with the best finite iterate of each sample.

    Raises:
        ValueError, TypeError: a malformed problem, before anything is compiled.
    """
    check_count("history", history)
    history = int(history)  # a shape: 6.0 is a count too
    check_not_negative("ridge", ridge)

    def init(z: State) -> _History:
        dtype, batch = _tree.accumulation_dtype(z), _tree.batch_size(z)
        zeros = jax.tree.map(jnp.zeros_like, z)
        empty = jax.tree.map(lambda x: jnp.zeros((batch, history, x.size // batch), x.dtype), z)
        return _History(zeros, zeros, empty, empty, jnp.zeros((batch, history, history), dtype))

    def step(memory: _History, z: State, fz: State, index: jax.Array) -> tuple[State, _History]:
        residual = _tree.subtract(fz, z)
        damped = _tree.mix(z, fz, damping)
        slot = (index - 1) % history
        # before the second evaluation there is no difference: the slot stays empty
        filled = (index > 0).astype(memory.gram.dtype)
        residual_step = _difference(residual, memory.residual, filled)
        residual_steps = _store(memory.residual_steps, residual_step, slot)
        damped_steps = _store(memory.damped_steps, _difference(damped, memory.damped, filled), slot)
        row = _inner_products(residual_steps, residual_step)
        gram = lax.dynamic_update_index_in_dim(memory.gram, row, slot, axis=1)
        gram = lax.dynamic_update_index_in_dim(gram, row, slot, axis=2)
        weights, _ = solve_normal_equations(gram, _inner_products(residual_steps, residual), ridge)
        proposal = _combine(damped, damped_steps, weights)
        return proposal, _History(residual, damped, residual_steps, damped_steps, gram)

    solution, _ = iterate(f, z0, init=init, step=step, tol=tol, max_steps=max_steps, **options)
    return solution


def _difference(new: State, old: State, filled: jax.Array) -> State:
    return jax.tree.map(lambda a, b: filled.astype(a.dtype) * (a - b), new, old)


def _store(columns: State, column: State, slot: jax.Array) -> State:
    return jax.tree.map(
        lambda c, x: lax.dynamic_update_index_in_dim(c, _tree.flat(x), slot, axis=1),
        columns,
        column,
    )


def _inner_products(columns: State, vector: State) -> jax.Array:
    """(batch, m): each column's inner product with the vector, over all leaves, in full width."""
    dtype = _tree.accumulation_dtype(vector)
    products = jax.tree.map(
        lambda c, x: jnp.einsum(
            "bmn,bn->bm",
            c,
            _tree.flat(x),
            precision=lax.Precision.HIGHEST,
            preferred_element_type=dtype,
        ),
        columns,
        vector,
    )
    return _tree.total(products)


def _combine(damped: State, columns: State, weights: jax.Array) -> State:
    """Subtract the weighted columns: damped - columns gamma, accumulated wide."""

    def leaf(y: jax.Array, c: jax.Array) -> jax.Array:
        # spelled out, the sum fuses with what reads it: one pass over the columns and no temporary
        result = _tree.flat(y).astype(weights.dtype)
        for slot in range(c.shape[1]):
            result = result - weights[:, slot, None] * c[:, slot].astype(weights.dtype)
        return result.reshape(y.shape).astype(y.dtype)

    return jax.tree.map(leaf, damped, columns)
