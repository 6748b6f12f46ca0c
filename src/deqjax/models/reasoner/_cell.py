"""One cycle of a reasoner: the map whose fixed point is the answer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from deqjax.models.reasoner._layer import ReasonerLayer
from deqjax.models.reasoner._shape import ReasonerShape


class ReasonerStates(NamedTuple):
    """What a reasoner iterates.

    Attributes:
        high: z_H, (batch, N, D), from which the answer is read.
        low: z_L, likewise, which works towards the next one.
    """

    high: jax.Array
    low: jax.Array


class ReasonerCell(nnx.Module):
    """A cycle, f((z_H, z_L), x): L updates of the low state, then one of the high state.

        z_L <- level(z_L, z_H + x)   L times,      z_H <- level(z_H, z_L)
        level(z, u) = (1 - lambda) z + lambda stack(z + u) + noise

    with one stack of layers for both. The noise of a training step depends on the number of the
    cycle and of the update in it alone, so that one solve iterates one map; a rule for the gradient
    that works at the solution holds that of the last cycle.

    Args:
        shape: sizes and options.
        rngs: streams "params" and "noise".

    Attributes:
        shape: sizes and options.
        layers: of the level.
        noise: the random stream that noise comes from.
        deterministic: no noise; set by ``eval()``, unset by ``train()``.
    """

    def __init__(self, shape: ReasonerShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        self.layers = nnx.List([ReasonerLayer(shape, rngs=rngs) for _ in range(shape.layers)])
        self.noise = rngs["noise"].fork()
        self.deterministic = False

    def __call__(
        self, z: ReasonerStates, x: jax.Array, *, step: jax.Array | int = 0
    ) -> ReasonerStates:
        """One cycle from z; x (batch, N, D) are the embedded tokens, ``step`` is its number."""
        steps = self.shape.inner_steps
        key = None if self.deterministic or not self.shape.noise else self.noise()
        if key is not None:
            key = jax.random.fold_in(key, step)
        high, low = z
        u = high + x

        def update(low: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            return self.level(low, u, key, number), None

        if steps == 1:
            low, _ = update(low, jnp.int32(0))
        else:
            low, _ = lax.scan(update, low, jnp.arange(steps, dtype=jnp.int32))
        return ReasonerStates(self.level(high, low, key, jnp.int32(steps)), low)

    def level(
        self,
        z: jax.Array,
        u: jax.Array,
        key: jax.Array | None = None,
        number: jax.Array | int = 0,
    ) -> jax.Array:
        """One update of a state z (batch, N, D) that is told u.

        Args:
            z: the state.
            u: what is added to it.
            key: of the cycle's noise; None is none.
            number: of the update in the cycle.
        """
        t = z + u
        for layer in self.layers:
            t = layer(t)
        z = t if self.shape.damping == 1 else (1 - self.shape.damping) * z + self.shape.damping * t
        if key is None:
            return z
        return z + self.shape.noise * jax.random.normal(
            jax.random.fold_in(key, number), z.shape, z.dtype
        )
