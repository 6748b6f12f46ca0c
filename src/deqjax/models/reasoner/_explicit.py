"""The explicit network that a reasoner is compared with."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models.reasoner._layer import ReasonerLayer, check_puzzles
from deqjax.models.reasoner._shape import ReasonerShape


class PuzzleTransformer(nnx.Module):
    """A reasoner's layers, untied and applied once: tokens in, logits out.

    It has the parameters of a reasoner of as many layers, but for the halting numbers.

    Args:
        shape: sizes and options; of these ``inner_steps``, ``damping``, ``noise`` and
            ``start_deviations`` mean nothing here.
        rngs: stream "params".

    Attributes:
        shape: sizes and options.
        embedding: (tokens, D).
        layers: one after the other.
        head: (D, tokens).

    Raises:
        ValueError: sizes that are not known or do not go together.
    """

    def __init__(self, shape: ReasonerShape, *, rngs: nnx.Rngs) -> None:
        shape.check()
        self.shape = shape
        width, tokens = shape.width, shape.vocabulary
        start = jax.nn.initializers.truncated_normal(width**-0.5)
        self.embedding = nnx.Param(start(rngs.params(), (tokens, width), jnp.float32))
        self.layers = nnx.List([ReasonerLayer(shape, rngs=rngs) for _ in range(shape.layers)])
        self.head = nnx.Param(start(rngs.params(), (width, tokens), jnp.float32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits (batch, N, tokens) float32 of tokens (batch, N) int.

        Raises:
            ValueError: tokens that the model cannot take.
        """
        check_puzzles(tokens, self.shape)
        t = math.sqrt(self.shape.width) * self.embedding[...][tokens]
        for layer in self.layers:
            t = layer(t)
        logits: jax.Array = t @ self.head[...]
        return logits
