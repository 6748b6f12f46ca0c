"""Broyden's good method, with a limited-memory inverse for each sample."""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.bordered import Entering, exchange
from deqjax._core.history import inner_products, subtract_weighted_steps
from deqjax._core.low_rank import LowRankInverse, identity_inverse, store_where
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
    image: State  # f(z)
    size: PerSample  # (batch,) ||f(z) - z||, infinite before the first evaluation


class _Memory(NamedTuple):
    base: State  # the last accepted iterate
    image: State  # f(base)
    size: PerSample  # (batch,) ||f(base) - base||, infinite before the first evaluation
    best: _Best | None  # None where the line search looks after runaways
    backtracks: PerSample  # (batch,) int32, halvings of the step that left the base
    pairs: PerSample  # (batch,) int32, pairs learned
    inverse: LowRankInverse
    largest: PerSample


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

        H = I + F M^-1 S^T,    M_ij = s_i^T y_j, less s_i^T s_j where pair i is newer than pair j,

    with F = S - Y the changes of f: a sum of rank-one updates of H (Bai, Kolter & Koltun, NeurIPS
    2019) cannot forget its first without spoiling those built on it, and then diverges. An update
    that would make M singular to rounding is skipped and leaves the estimate as it was; a sample
    whose z does not change learns nothing.

    A sample whose ||g|| exceeds 1000 times the smallest that it has had goes back to that iterate,
    halves c in H = c I, with which it starts again (c is 1 at first: a map that contracts is left
    its own step), and keeps the one pair that leads from there to the runaway. This costs nothing
    where it does not happen, and Broyden's method climbs a hundredfold on its way to many roots:
    smaller factors, or a c taken from the pair, lost more problems than they won (of the figures in
    ``experiments/results/robustness.json``).

    ``line_search`` demands ||g(z_k + t p)|| <= (1 - 1e-4 t) ||g_k|| of a step p = H_k g_k, halving
    t up to five times (Armijo's rule; the shortest step is taken in any case). A trial point where
    f is not finite is halved likewise. f is evaluated once a pass whether or not a sample
    backtracks, so each backtrack counts as one step and samples proceed at their own pace. It helps
    where full steps run away. Where they do not, Broyden's method lets the residual rise on its
    way, and the search costs two to ten times the steps.

    Memory: 2 rank + 6 times |z| (4 with ``line_search``). Cost per step: one evaluation of f, about
    4 rank |z| multiply-adds and the inversion of a rank x rank matrix. For linear f of n dimensions
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
        none = filled_per_sample(z, 0, jnp.int32)
        inverse = identity_inverse(z, rank)
        unmeasured, zeros = filled_per_sample(z, jnp.inf, inverse.middle.dtype), zeros_like(z)
        best = None if line_search else _Best(z, zeros, unmeasured)
        return _Memory(z, zeros, unmeasured, best, none, none, inverse, jnp.zeros_like(unmeasured))

    def propose(base: State, image: State, inverse: LowRankInverse, weights: list[PerSample]) -> State:
        residual = algebra.subtract(image, base)
        slots = [jnp.int32(slot) for slot in range(rank)]
        moved = subtract_weighted_steps(residual, inverse.left, weights, slots)
        return algebra.mix(base, algebra.add(base, algebra.scale(inverse.scale, moved)), damping)

    def watch(
        memory: _Memory, before: _Best, z: State, fz: State, seen: Pass
    ) -> tuple[State, _Memory]:
        """Step on, or from the best iterate where the residual has grown beyond it."""
        ran_away = (seen.change > _GROWTH * before.size) | (memory.largest * 4 * rank * float(jnp.finfo(memory.size.dtype).eps) >= 1)
        better = seen.change <= before.size
        slot = lax.rem(seen.number, jnp.int32(rank))
        unit = 1 / algebra.power_of_two(before.size)
        best_size = jnp.where(better, seen.change, before.size)
        scale = jnp.where(ran_away, _SHORTER * memory.inverse.scale, memory.inverse.scale)
        slots = jnp.where(jnp.isfinite(seen.change), slot.astype(seen.change.dtype), float(rank))
        ran_away, better, unit, best_size, scale, slots = lax.optimization_barrier(
            (ran_away, better, unit, best_size, scale, slots)
        )
        # the way from the best iterate to the runaway is the only pair that is kept
        start, image = algebra.select(
            ran_away, (before.z, before.image), (memory.base, memory.image)
        )
        base, base_image = algebra.select(ran_away, (before.z, before.image), (z, fz))
        step = algebra.subtract(z, start)
        image_step = algebra.subtract(fz, image)
        image_step = _shortened(image_step, step, scale)
        step, image_step = algebra.rescale((step, image_step), unit)
        inverse, weights, sound, largest = _learn(
            _forget(memory.inverse, ran_away)._replace(scale=scale), slot, slots, step, image_step,
            algebra.subtract(base_image, base)
        )
        best = _Best(*algebra.select(better, (z, fz), (before.z, before.image)), best_size)
        memory = memory._replace(base=base, image=base_image, best=best, inverse=inverse, largest=largest)
        return propose(base, base_image, inverse, weights), memory

    def search(memory: _Memory, z: State, fz: State, seen: Pass) -> tuple[State, _Memory]:
        size = memory.size
        length = jnp.asarray(damping, size.dtype) * jnp.exp2(-memory.backtracks.astype(size.dtype))
        accepted = seen.change <= (1 - _SUFFICIENT_DECREASE * length) * size
        accepted |= memory.backtracks >= _MOST_BACKTRACKS
        # a sample that stops here keeps its z: rejected, it would go on backtracking on the spot
        accepted |= ~seen.goes_on
        # where rejected, a step of zero from the base teaches nothing
        start, image = algebra.select(accepted, (z, fz), (memory.base, memory.image))
        size = jnp.where(accepted, seen.change, size)
        step, image_step = algebra.rescale(
            (algebra.subtract(start, memory.base), algebra.subtract(image, memory.image)),
            1 / algebra.power_of_two(memory.size),
        )
        forget = (memory.largest * 4 * rank * float(jnp.finfo(memory.size.dtype).eps) >= 1)
        slots = lax.rem(memory.pairs, jnp.int32(rank))
        inverse, weights, sound, largest = _learn(
            _forget(memory.inverse, forget)._replace(scale=memory.inverse.scale), slots, slots, step, image_step, algebra.subtract(image, start),
        )
        proposal = propose(start, image, inverse, weights)
        advanced = memory._replace(base=start, image=image, size=size, inverse=inverse,
            pairs=memory.pairs + sound.astype(jnp.int32), largest=largest)
        halved = algebra.mix(memory.base, z, 0.5)
        backtracks = jnp.where(accepted, 0, memory.backtracks + 1)
        return algebra.select(accepted, proposal, halved), advanced._replace(backtracks=backtracks)

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
    return solution._replace(memory=memory.inverse) if keep_memory else solution


def _learn(
    inverse: LowRankInverse,
    slot: jax.Array,
    slots: PerSample,
    step: State,
    image_step: State,
    residual: State,
) -> tuple[LowRankInverse, list[PerSample], PerSample]:
    """Replace each sample's oldest pair by (s, y = s - f(z + s) + f(z)), unless that is unsound."""
    rank = inverse.middle.shape[1]
    change = algebra.subtract(image_step, step)
    squares = algebra.dot(step, step), algebra.dot(change, change)
    threshold = 4 * rank * float(jnp.finfo(inverse.middle.dtype).eps)
    length, size = (jnp.sqrt(lax.stop_gradient(each)) for each in squares)
    # finite, and not a zero step or one along which f moves just as z does
    allowed = (size > threshold * length) & jnp.isfinite(size) & (length > 0)
    length, size = (jnp.where(allowed, each, 1) for each in (length, size))
    entering = Entering(
        row=inner_products(inverse.left, step),
        column=inner_products(inverse.right, change),
        corner=algebra.dot(step, change),
        row_length=length,
        column_length=size,
    )
    products = inner_products(inverse.right, residual)
    middle, weights, sound, largest = exchange(
        inverse.middle,
        slots,
        entering,
        products,
        algebra.dot(step, residual),
        allowed,
        threshold,
    )
    fine = largest * threshold < 1
    weights = [jnp.where(fine, weights[:, i], 0) for i in range(rank)]
    of_step, of_image = 1 / length, 1 / size
    # H depends on neither length: dividing by both makes M's entries cosines of s and y
    weights, of_step, of_image = lax.optimization_barrier((weights, of_step, of_image))
    right = store_where(inverse.right, algebra.rescale(step, of_step), slot, sound)
    left = store_where(inverse.left, algebra.rescale(image_step, of_image), slot, sound)
    return LowRankInverse(left, middle, right, inverse.scale), weights, sound, largest


def _forget(inverse: LowRankInverse, where: PerSample) -> LowRankInverse:
    """Start again with H = c I of a c that is half as long, where told."""
    return inverse._replace(
        middle=algebra.select(where, zeros_like(inverse.middle), inverse.middle),
        scale=jnp.where(where, _SHORTER * inverse.scale, inverse.scale),
    )


def _shortened(image_step: State, step: State, scale: PerSample) -> State:
    """The change of z + c (f(z) - z), whose Broyden estimate starts at I where that of f is c I."""

    def leaf(changed: jax.Array, moved: jax.Array) -> jax.Array:
        share = algebra.per_sample(scale, moved).astype(moved.dtype)
        # c = 1 leaves it as it is, bit for bit
        return share * changed + (moved - share * moved)

    return jax.tree.map(leaf, image_step, step)
