"""The estimate of Broyden's method: a pair of its last steps learned, and what it says of the next.

In the form H = c (I - F M^-1 S^T) of `deqjax.solvers.broyden`, whose M^-1 has one index exchanged.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.bordered import Entering, exchange
from deqjax._core.history import inner_products, subtract_weighted
from deqjax._core.low_rank import LowRankInverse
from deqjax._core.sharding import zeros_like
from deqjax._core.types import PerSample, Scalar, State


class Pair(NamedTuple):
    """Each in a unit of its own, a power of two: squares of both are in range."""

    step: State  # s, of z
    change: State  # of c g along s
    ratio: PerSample  # of the change's unit to the step's


class Products(NamedTuple):
    """Inner products of a pair, (batch,) each."""

    step: PerSample
    change: PerSample
    both: PerSample
    residual: PerSample  # of the step and the residual g at which H is applied next


class Learned(NamedTuple):
    """The estimate, and what it makes of the residual g."""

    inverse: LowRankInverse  # left F, middle M^-1 (zero in empty slots), right S, scale c
    weights: list[PerSample]  # M^-1 S^T g, so that H g = c (g - F weights)
    largest: PerSample  # (batch,) entry of M^-1


def pair_between(
    start: tuple[State, State],
    end: tuple[State, State],
    scale: PerSample,
    before: PerSample,
    now: PerSample,
) -> Pair:
    """Of two iterates with their residuals, whose sizes are about those before and now.

    A c below 1 makes it a pair of z + c (f(z) - z), whose estimate starts at I where that of f
    starts at c I.
    """
    of_step, of_change = (algebra.power_of_two(x) for x in (before, jnp.maximum(before, now)))
    step, change = algebra.subtract(end, start)
    change = algebra.scale(scale, algebra.rescale(change, 1 / of_change))
    return Pair(algebra.rescale(step, 1 / of_step), change, of_step / of_change)


def products_of(pair: Pair, residual: State) -> Products:
    """All that an exchange asks of a new pair."""
    step, change, _ = pair
    firsts, seconds = (step, change, step, step), (step, change, change, residual)
    return Products(*map(algebra.dot, firsts, seconds))


def learn(
    inverse: LowRankInverse,
    index: PerSample,
    pair: Pair,
    products: Products,
    residual: State,
    put: Callable[..., State],
) -> Learned:
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
    return Learned(inverse, weights, largest)


def propose(base: State, residual: State, learned: Learned, damping: Scalar) -> State:
    """The next iterate: a step from the base along H g, of the length of the damping."""
    inverse = learned.inverse
    moved = subtract_weighted(residual, inverse.left, learned.weights)
    newton = algebra.add(base, algebra.scale(inverse.scale, moved))
    return algebra.mix(base, newton, damping)


def outgrown(inverse: LowRankInverse, largest: PerSample) -> PerSample:
    """Whether M^-1 has numbers that say no more than rounding, M being one of cosines."""
    return ~(largest * _rounding(inverse) < 1)


def _rounding(inverse: LowRankInverse) -> float:
    """What a cosine, or a pivot of M, has to exceed."""
    return 4 * inverse.middle.shape[1] * float(jnp.finfo(inverse.middle.dtype).eps)


def forget(inverse: LowRankInverse, where: PerSample) -> LowRankInverse:
    """H = c I, where told."""
    middle = algebra.select(where, zeros_like(inverse.middle), inverse.middle)
    return inverse._replace(middle=middle)
