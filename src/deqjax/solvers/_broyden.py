"""Broyden's good method, with a limited-memory inverse for each sample."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Unpack

import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.bordered import Entering, exchange
from deqjax._core.history import inner_products, store, store_each, subtract_weighted
from deqjax._core.low_rank import LowRankInverse, identity_inverse
from deqjax._core.residual import measure
from deqjax._core.sharding import filled_per_sample, zeros_like
from deqjax._core.solution import Solution
from deqjax._core.types import Map, PerSample, Scalar, State
from deqjax._core.validate import check_count
from deqjax.solvers._forgiving import measure_forgiving, report_truly
from deqjax.solvers._loop import LoopOptions, Pass, iterate

# a step of length t has to shrink ||g|| by the factor 1 - 1e-4 t (Kelley 2003, section 1.6)
_SUFFICIENT_DECREASE = 1e-4
_MOST_BACKTRACKS = 5
# a residual this many times the smallest is a runaway: Broyden's method often climbs a hundredfold
_GROWTH = 1e3
_SHORTER = 0.5


class _Best(NamedTuple):
    """Where a sample restarts."""

    z: State
    residual: State  # f(z) - z
    size: PerSample  # (batch,) its length, infinite before the first evaluation


class _Memory(NamedTuple):
    base: State  # the last accepted iterate
    residual: State  # f(base) - base
    size: PerSample  # (batch,) its length, infinite before the first evaluation; of the line search
    best: _Best | None  # None where the line search looks after runaways
    stepped: PerSample  # (batch,) bool, whether z is a step from the base
    backtracks: PerSample  # (batch,) int32, halvings of the step that left the base
    slot: PerSample  # (batch,) int32, of the oldest pair in the line search, whose samples differ
    inverse: LowRankInverse  # left F, middle M^-1 (zero in empty slots), right S, scale c
    largest: PerSample  # (batch,) entry of M^-1


def broyden(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    rank: int = 10,
    line_search: bool = False,
    damping: Scalar = 1.0,
    keep_memory: bool = False,
    **options: Unpack[LoopOptions],
) -> Solution:
    """Solve z = f(z) by Broyden's good method of limited memory.

    With g_k = f(z_k) - z_k and an estimate H_k of (I - J)^-1, J = df/dz, that starts at I,

        z_(k+1) = z_k + damping H_k g_k,    s = z_(k+1) - z_k,    y = g_k - g_(k+1),
        H_(k+1) = H_k + (s - H_k y) (s^T H_k) / (s^T H_k y)

    (Broyden, Math. Comp. 1965; Kelley, Solving Nonlinear Equations with Newton's Method, 2003,
    chapter 4), so that H_(k+1) y = s: the newest secant condition holds exactly. The estimate is
    that of the last ``rank`` updates alone: the oldest pair is dropped before the newest enters.
    It is applied in the compact form of Byrd, Nocedal & Schnabel (Math. Program. 1994, section 6),

        H = I - F M^-1 S^T,    M_ij = s_i^T (f_j - s_j), or s_i^T f_j where pair i is newer than j,

    with F = S - Y the changes of f: a sum of rank-one updates of H (Bai, Kolter & Koltun, NeurIPS
    2019) cannot forget its first without spoiling those built on it, and then diverges. M^-1 is
    kept, and has one index exchanged a step. A pair that would make M singular to rounding, or a
    step of zero, teaches nothing; the oldest pair is dropped all the same.

    A sample whose ||g|| exceeds 1000 times the smallest that it has had, or whose M^-1 has outgrown
    the digits of its numbers, goes back to that iterate, halves c in H = c I, with which it starts
    again (c is 1 at first: a map that contracts is left its own step), and keeps the one pair that
    leads from there to the runaway. This costs nothing where it does not happen, and Broyden's
    method climbs a hundredfold on its way to many roots: smaller factors, or a c taken from the
    pair, lost more problems than they won (of the figures in
    ``experiments/results/robustness.json``).

    ``line_search`` demands ||g(z_k + t p)|| <= (1 - 1e-4 t) ||g_k|| of a step p = H_k g_k, halving
    t up to five times (Armijo's rule; the shortest step is taken in any case). A trial point where
    f is not finite is halved likewise. f is evaluated once a pass whether or not a sample
    backtracks, so each backtrack counts as one step and samples proceed at their own pace. It helps
    where full steps run away. Where they do not, Broyden's method lets the residual rise on its
    way, and the search costs two to ten times the steps.

    Memory: 2 rank + 6 times |z| (4 with ``line_search``). Cost per step: one evaluation of f, about
    4 rank |z| multiply-adds and an update of a rank x rank matrix. For linear f of n dimensions
    with ``rank`` >= 2 n it ends after 2 n steps (Gay, SIAM J. Numer. Anal. 1979), whatever the
    radius, unless it restarts.
    With fewer pairs it takes about as many steps as Anderson with as long a history, some more
    where the radius comes close to 1; there fewer than 8 pairs slow it down noticeably.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most updates of z, at least 1; may be traced.
        rank: number of pairs kept, static.
        line_search: whether to shorten steps that do not reduce ||g||.
        damping: length t of a full step, in (0, 1]; 1 is undamped; may be traced.
        keep_memory: hand the estimate out as ``Solution.memory``, a
            [`deqjax.solvers.LowRankInverse`][], as SHINE needs it.
        **options: see [`deqjax.solvers.LoopOptions`][].

    Returns:
        [`deqjax.Solution`][] with the best finite iterate of each sample.

    Raises:
        ValueError, TypeError: a malformed problem, before anything is compiled.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.solvers import broyden
        >>> solution = broyden(lambda z: 0.9 * z + 1, jnp.zeros((2, 3)), tol=1e-5, max_steps=30)
        >>> print(solution.value[0].round(2), solution.stats.steps)
        [10. 10. 10.] [2 2]
    """
    check_count("rank", rank)
    rank = int(rank)  # a shape: 6.0 is a count too

    def init(z: State) -> _Memory:
        inverse, zeros = identity_inverse(z, rank), zeros_like(z)
        none, never = (filled_per_sample(z, 0, dtype) for dtype in (jnp.int32, jnp.bool_))
        unmeasured = filled_per_sample(z, jnp.inf, inverse.middle.dtype)
        best = None if line_search else _Best(z, zeros, unmeasured)
        return _Memory(
            z, zeros, unmeasured, best, never, none, none, inverse, zeros_like(unmeasured)
        )

    def propose(base: State, residual: State, learned: _Learned) -> State:
        inverse = learned.inverse
        moved = subtract_weighted(residual, inverse.left, learned.weights)
        newton = algebra.add(base, algebra.scale(inverse.scale, moved))
        return algebra.mix(base, newton, damping)

    def watch(
        memory: _Memory, before: _Best, z: State, fz: State, seen: Pass
    ) -> tuple[State, _Memory]:
        """Step on, or from the best iterate where the residual has grown beyond it."""
        inverse, dtype = memory.inverse, seen.change.dtype
        ran_away = (seen.change > _GROWTH * before.size) | _outgrown(inverse, memory.largest)
        better = seen.change <= before.size
        learns = memory.stepped & jnp.isfinite(seen.change)
        slot = lax.rem(seen.number, jnp.int32(rank))
        ran_away, better, size, scale, index = lax.optimization_barrier(
            (
                ran_away,
                better,
                jnp.where(better, seen.change, before.size),
                jnp.where(ran_away, _SHORTER * inverse.scale, inverse.scale),
                # of one dtype with the others it is formed together with them
                jnp.where(learns, slot.astype(dtype), float(rank)),
            )
        )
        here, best = (z, algebra.subtract(fz, z)), (before.z, before.residual)
        # the way from the best iterate to the runaway is the only pair that is kept
        start = algebra.select(ran_away, best, (memory.base, memory.residual))
        pair = _pair(start, here, scale, before.size, seen.change)
        base, residual = algebra.select(ran_away, best, here)
        products = _products(pair, residual)
        best = algebra.select(better, here, best)
        # one pass over these states makes all that is needed of them
        pair, base, residual, best = lax.optimization_barrier((pair, base, residual, best))
        learned = _learn(
            _forget(inverse, ran_away)._replace(scale=scale),
            index,
            pair,
            products,
            residual,
            partial(store, slot=slot, keep=keep_memory),
        )
        memory = memory._replace(
            base=base,
            residual=residual,
            best=_Best(best[0], best[1], size),
            stepped=seen.goes_on,
            inverse=learned.inverse,
            largest=learned.largest,
        )
        return propose(base, residual, learned), memory

    def search(memory: _Memory, z: State, fz: State, seen: Pass) -> tuple[State, _Memory]:
        size, slot = memory.size, memory.slot
        length = jnp.asarray(damping, size.dtype) * jnp.exp2(-memory.backtracks.astype(size.dtype))
        accepted = seen.change <= (1 - _SUFFICIENT_DECREASE * length) * size
        accepted |= memory.backtracks >= _MOST_BACKTRACKS
        # a sample that stops here keeps its z: rejected, it would go on backtracking on the spot
        accepted |= ~seen.goes_on
        here, start = (z, algebra.subtract(fz, z)), (memory.base, memory.residual)
        pair = _pair(start, here, memory.inverse.scale, size, seen.change)
        base, residual = algebra.select(accepted, here, start)
        # where rejected, there is nothing to learn
        learns = accepted & memory.stepped
        learned = _learn(
            _forget(memory.inverse, _outgrown(memory.inverse, memory.largest)),
            jnp.where(learns, slot, rank),
            pair,
            _products(pair, residual),
            residual,
            partial(store_each, slot=slot),
        )
        memory = memory._replace(
            base=base,
            residual=residual,
            size=jnp.where(accepted, seen.change, size),
            stepped=seen.goes_on,
            backtracks=jnp.where(accepted, 0, memory.backtracks + 1),
            slot=jnp.where(learns, lax.rem(slot + 1, jnp.int32(rank)), slot),
            inverse=learned.inverse,
            largest=learned.largest,
        )
        halved = algebra.mix(start[0], z, 0.5)
        return algebra.select(accepted, propose(base, residual, learned), halved), memory

    def step(memory: _Memory, z: State, fz: State, seen: Pass) -> tuple[State, _Memory]:
        if memory.best is None:
            return search(memory, z, fz, seen)
        return watch(memory, memory.best, z, fz, seen)

    solution, memory = iterate(
        f,
        z0,
        init=init,
        step=step,
        tol=tol,
        max_steps=max_steps,
        measure=measure_forgiving if line_search else measure,
        **options,
    )
    if line_search:
        solution = solution._replace(stats=report_truly(solution.stats))
    if not keep_memory:
        return solution
    return solution._replace(
        memory=_forget(memory.inverse, _outgrown(memory.inverse, memory.largest))
    )


class _Pair(NamedTuple):
    """Each in a unit of its own, a power of two: squares of both are in range."""

    step: State  # s, of z
    change: State  # of c g along s
    ratio: PerSample  # of the change's unit to the step's


class _Products(NamedTuple):
    """Inner products of a pair, (batch,) each."""

    step: PerSample
    change: PerSample
    both: PerSample
    residual: PerSample  # of the step and the residual g at which H is applied next


class _Learned(NamedTuple):
    inverse: LowRankInverse
    weights: list[PerSample]  # M^-1 S^T g, so that H g = c (g - F weights)
    largest: PerSample  # (batch,) entry of M^-1


def _pair(
    start: tuple[State, State],
    end: tuple[State, State],
    scale: PerSample,
    before: PerSample,
    now: PerSample,
) -> _Pair:
    """Of two iterates with their residuals, whose sizes are about those before and now.

    A c below 1 makes it a pair of z + c (f(z) - z), whose estimate starts at I where that of f
    starts at c I.
    """
    of_step, of_change = (algebra.power_of_two(x) for x in (before, jnp.maximum(before, now)))
    step, change = algebra.subtract(end, start)
    change = algebra.scale(scale, algebra.rescale(change, 1 / of_change))
    return _Pair(algebra.rescale(step, 1 / of_step), change, of_step / of_change)


def _products(pair: _Pair, residual: State) -> _Products:
    step, change, _ = pair
    firsts, seconds = (step, change, step, step), (step, change, change, residual)
    return _Products(*map(algebra.dot, firsts, seconds))


def _learn(
    inverse: LowRankInverse,
    index: PerSample,
    pair: _Pair,
    products: _Products,
    residual: State,
    put: Callable[..., State],
) -> _Learned:
    """Replace the pair of an index by a new one, whose columns ``put`` writes, and weigh F."""
    rounding = _rounding(inverse)
    squares = lax.stop_gradient((products.step, products.change))
    length, size = (jnp.sqrt(each) for each in squares)
    # finite, and not a zero step or one along which f moves just as z does
    allowed = (size > rounding * length) & jnp.isfinite(size) & (length > 0)
    length, size = (jnp.where(allowed, each, 1) for each in (length, size))
    middle, product, sound, largest = exchange(
        inverse.middle,
        index,
        # H depends on neither length: dividing by both makes M's entries cosines
        Entering(
            row=inner_products(inverse.left, pair.step),
            column=inner_products(inverse.right, pair.change),
            corner=products.both,
            row_length=length,
            column_length=size,
        ),
        allowed,
        vector=inner_products(inverse.right, residual),
        entry=products.residual,
        least=rounding,
    )
    fine = largest * rounding < 1
    weights = [jnp.where(fine, product[:, slot], 0) for slot in range(product.shape[1])]
    # all numbers first, and then all that is written to the states' columns
    weights, of_step, of_image, left, right = lax.optimization_barrier(
        (weights, 1 / length, 1 / size, inverse.left, inverse.right)
    )
    image_step = algebra.add(algebra.rescale(pair.step, pair.ratio), pair.change)
    inverse = LowRankInverse(
        left=put(left, algebra.rescale(image_step, of_image), where=sound),
        middle=middle,
        right=put(right, algebra.rescale(pair.step, of_step), where=sound),
        scale=inverse.scale,
    )
    return _Learned(inverse, weights, largest)


def _outgrown(inverse: LowRankInverse, largest: PerSample) -> PerSample:
    """Whether M^-1 has numbers that say no more than rounding, M being one of cosines."""
    return ~(largest * _rounding(inverse) < 1)


def _rounding(inverse: LowRankInverse) -> float:
    """What a cosine, or a pivot of M, has to exceed."""
    return 4 * inverse.middle.shape[1] * float(jnp.finfo(inverse.middle.dtype).eps)


def _forget(inverse: LowRankInverse, where: PerSample) -> LowRankInverse:
    """H = c I, where told."""
    middle = algebra.select(where, zeros_like(inverse.middle), inverse.middle)
    return inverse._replace(middle=middle)
