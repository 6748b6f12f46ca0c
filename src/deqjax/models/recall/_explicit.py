"""The explicit network that a recall network is compared with."""

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models._tokens import check_rows
from deqjax.models.recall._block import RecallBlock
from deqjax.models.recall._shape import RecallShape


class ConvolutionalNetwork(nnx.Module):
    """As many blocks as the shape says, each with weights of its own, one after the other.

    Args:
        shape: sizes.
        rngs: stream "params".

    Attributes:
        shape: sizes.
        blocks: the stack; every one sees the tokens.
        head: state -> logits.
    """

    def __init__(self, shape: RecallShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        self.blocks = nnx.List([RecallBlock(shape, rngs=rngs) for _ in range(shape.blocks)])
        self.head = nnx.Linear(shape.width, shape.vocabulary, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits (batch, N, tokens) float32 of tokens (batch, N) int.

        Raises:
            ValueError: tokens that are no whole numbers (batch, N).
        """
        check_rows(tokens)
        one_hot = jax.nn.one_hot(tokens, self.shape.vocabulary)
        z = jnp.zeros((*tokens.shape, self.shape.width), jnp.float32)
        for block in self.blocks:
            z = block(z, block.inject(one_hot))
        logits: jax.Array = self.head(z)
        return logits
