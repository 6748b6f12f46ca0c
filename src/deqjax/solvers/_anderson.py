"""Anderson acceleration, type II, one least-squares problem per sample."""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.history import (
    empty_columns,
    inner_products,
    store,
    stored,
    subtract_weighted_steps,
)
from deqjax._core.sharding import filled_per_sample
from deqjax._core.solution import Solution
from deqjax._core.types import Map, PerSample, Scalar, State
from deqjax._core.validate import check_count, check_not_negative
from deqjax.solvers._least_squares import solve_in_matrices, solve_in_vectors
from deqjax.solvers._loop import LoopOptions, Pass, iterate

# a hundred times the rounding of the Gram matrix
_RIDGE_OF_FLOAT32 = 1e-5


class _History(NamedTuple):
    """The last m + 1 residuals and damped iterates, in a ring that is written backwards.

    Step k has slot m - k mod (m + 1), so that the next slot is the step before.
    """

    residuals: State  # factor g_k, g_k = f(z_k) - z_k, leaves (batch, m + 1, features)
    damped: State  # z_k + damping g_k, leaves (batch, m + 1, features)
    products: jax.Array  # (batch, m + 1, m + 1), row of step k: of g_k - g_(k-1) with all residuals
    factor: PerSample  # (batch,) power of two near 1 / ||g_0||, so that squares are in range


def anderson(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    history: int = 6,
    ridge: Scalar | None = None,
    damping: Scalar = 1.0,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) by Anderson acceleration of type II.

    With g_k = f(z_k) - z_k and the last m differences dZ, dG of iterates and residuals,

        gamma_k = argmin ||g_k - dG gamma||^2,
        z_(k+1) = z_k + damping g_k - (dZ + damping dG) gamma_k

    (Walker & Ni, SIAM J. Numer. Anal. 2011, section 2; Anderson, J. ACM 1965). Each sample has its
    own gamma; its Gram matrix gains one row a step, and is formed of residuals in units of the
    first, so that it holds at any scale of z. Differences enter from the newest to the oldest; one
    whose angle to the span of those before it is at most 1e-5 (whose squared sine, plus the ridge,
    is at most max(1e-10, 4 m eps)) is left out (after Walker & Ni, section 4, and the filter of
    Pollock & Rebholz, IMA J. Numer. Anal. 2023).

    Memory: 2 m + 4 times |z|. Cost per step: one evaluation of f and about 4 m |z| multiply-adds.
    For linear f it matches GMRES(m); it may stall where the Jacobian is far from normal, and radii
    above 1 are within reach only if few eigenvalues lie outside the unit circle.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most updates of z, at least 1; may be traced.
        history: number m of differences kept, static.
        ridge: Tikhonov weight of the least-squares problem, relative to each column's scale; None
            is 1e-5 in float32 and 0 where z has float64, in which leaving out is enough.
        damping: step length along the residual in (0, 1]; 1 is undamped.
        **options: see [`deqjax.solvers.LoopOptions`][].

    Returns:
        [`deqjax.Solution`][] with the best finite iterate of each sample.

    Raises:
        ValueError, TypeError: a malformed problem, before anything is compiled.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.solvers import Status, anderson
        >>> def f(z):
        ...     return 0.9 * z + jnp.arange(1.0, 4.0)
        >>> solution = anderson(f, jnp.zeros((2, 3)), tol=1e-5, max_steps=30)
        >>> print(solution.value[0].round(2), solution.stats.steps)
        [10. 20. 30.] [2 2]
        >>> print(Status(int(solution.stats.status[0])).sentence)
        the residual fell to the tolerance
    """
    check_count("history", history)
    history = int(history)  # a shape: 6.0 is a count too
    if ridge is None:
        ridge = 0.0 if algebra.accumulation_dtype(z0) == jnp.float64 else _RIDGE_OF_FLOAT32
    check_not_negative("ridge", ridge)

    count = history + 1

    def init(z: State) -> _History:
        empty, dtype = empty_columns(z, count), algebra.accumulation_dtype(z)
        products = filled_per_sample(z, jnp.zeros((count, count)), dtype)
        return _History(empty, empty, products, filled_per_sample(z, 1, dtype))

    def step(memory: _History, z: State, fz: State, seen: Pass) -> tuple[State, _History]:
        # behind this barrier f(z) - z is one of its own: shared with the norms that stop a sample,
        # it would be kept in memory, and they not be formed along with f(z)
        z, fz = lax.optimization_barrier((z, fz))
        slots = _slots(seen.number, count)
        newest, previous = slots[:2]
        first = 1 / algebra.power_of_two(seen.change)
        factor = jnp.where(seen.number == 0, first, memory.factor)
        scaled = algebra.rescale(algebra.subtract(fz, z), factor)
        residuals = store(memory.residuals, scaled, newest)
        damped = store(memory.damped, algebra.mix(z, fz, damping), newest)
        # read back from the rings: a second use of f(z) - z would keep XLA from updating in place
        residual = stored(residuals, newest)
        latest_step = algebra.subtract(residual, stored(residuals, previous))

        # with one factor a difference already, the other loses digits to first order only
        row = inner_products(residuals, latest_step)
        products = lax.dynamic_update_index_in_dim(memory.products, row, newest, axis=1)
        weights = lax.platform_dependent(
            products,
            inner_products(residuals, residual),
            slots,
            seen.number,
            jnp.asarray(ridge, products.dtype),
            cpu=_weights_in_matrices,
            default=_weights_in_vectors,
        )
        # weights are ready before the pass over the history, not formed again for each element;
        # what comes after is one pass, which reads z before it is overwritten
        weights, z, fz = lax.optimization_barrier((weights, z, fz))
        proposal = subtract_weighted_steps(algebra.mix(z, fz, damping), damped, weights, slots)
        return proposal, _History(residuals, damped, products, factor)

    solution, _ = iterate(f, z0, init=init, step=step, tol=tol, max_steps=max_steps, **options)
    return solution


def _slots(number: jax.Array, count: int) -> list[jax.Array]:
    """The slots of step ``number`` and of those before it, newest first."""
    size = jnp.asarray(count, number.dtype)
    newest = size - 1 - lax.rem(number, size)
    slots = [newest + age for age in range(count)]
    return [jnp.where(slot < size, slot, slot - size) for slot in slots]


def _weights_in_vectors(
    products: jax.Array,
    right: jax.Array,
    slots: list[jax.Array],
    number: jax.Array,
    ridge: jax.Array,
) -> list[PerSample]:
    """Gamma, newest first: entry by entry, which an accelerator fuses into few kernels.

    Args:
        products: as in `_History`.
        right: (batch, m + 1), of the newest residual with all.
        slots: newest first.
        number: steps known so far; older differences are none.
        ridge: see `anderson`.
    """
    history = len(slots) - 1

    def difference(array: jax.Array, *index: jax.Array, age: int) -> PerSample:
        """With g_(k-age) - g_(k-age-1), k the newest."""
        newer, older = (_entry(array, *index, slots[each]) for each in (age, age + 1))
        return newer - older

    gram = [[difference(products, slots[j], age=i) for j in range(i + 1)] for i in range(history)]
    for age in range(history):
        gram[age][age] = jnp.where(age < number, gram[age][age], 0)
    return solve_in_vectors(gram, [difference(right, age=i) for i in range(history)], ridge)


def _weights_in_matrices(
    products: jax.Array,
    right: jax.Array,
    slots: list[jax.Array],
    number: jax.Array,
    ridge: jax.Array,
) -> list[PerSample]:
    """The same in whole matrices: a CPU's compiler makes a loop of each vector."""
    order, history = jnp.stack(slots), len(slots) - 1
    by_age = jnp.take(jnp.take(products, order[:-1], axis=1), order, axis=2)
    aged = jnp.take(right, order, axis=1)
    gram = by_age[:, :, :-1] - by_age[:, :, 1:]
    row, column = jnp.indices((history, history), number.dtype)
    # a row is of the newer of the two: what it says of newer ones is from a ring since overwritten
    gram = jnp.where((row <= column)[None], gram, gram.transpose(0, 2, 1))
    gram = jnp.where(((row == column) & (row >= number))[None], 0, gram)
    weights = solve_in_matrices(gram, aged[:, :-1] - aged[:, 1:], ridge)
    return [weights[:, age] for age in range(history)]


def _entry(array: jax.Array, *index: jax.Array) -> PerSample:
    """(batch,) one entry of each sample's."""
    start = (jnp.zeros_like(index[0]), *index)
    return lax.dynamic_slice(array, start, (array.shape[0],) + (1,) * len(index)).reshape(-1)
