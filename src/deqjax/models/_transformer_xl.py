"""The explicit Transformer-XL language model: the baseline of the equilibrium models."""

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.adjoints import BackwardStats
from deqjax.models._language_model import LanguageModelBase, Prediction
from deqjax.models._memory import SegmentMemory
from deqjax.models._precision import check_explicit
from deqjax.models._shape import TransformerShape
from deqjax.models._transformer_layer import (
    LayerInputs,
    TransformerLayer,
    attend,
    feed_forward,
    layer_norm,
)


class TransformerXLLayer(TransformerLayer):
    """One layer, h -> h', without injection.

    post-LN:  g = LN(h + a(h)),       h' = LN(g + FF(g))
    pre-LN:   g = h + a(LN(h)),       h' = g + FF(LN(g))
    """

    def __call__(self, h: jax.Array, u: LayerInputs) -> jax.Array:
        """Apply the layer to h (batch, length, width)."""
        if self.shape.pre_layer_norm:
            h = h + attend(layer_norm(h), u)
            return h + feed_forward(layer_norm(h), u)
        h = layer_norm(h + attend(h, u))
        return layer_norm(h + feed_forward(h, u))


class TransformerXL(LanguageModelBase):
    """A stack of ``depth`` layers, each with weights and a memory of its own.

    Dai et al., ACL 2019, arXiv 1901.02860, with the parts of the equilibrium model: relative
    attention, layer norm without parameters, dropout masks held over positions. In the pre-LN form
    one more layer norm precedes the softmax. ``shape.residual_injection`` means nothing here.

    Args:
        shape: sizes and options.
        depth: number of layers, at least 1.
        rngs: streams "params" and "dropout".

    Attributes:
        shape: sizes and options.
        layers: the stack.

    Raises:
        ValueError: a depth below 1, a vocabulary that is not known, a width that the heads do not
            divide, cutoffs or rates that make no sense, or the dtype "mixed".
    """

    def __init__(self, shape: TransformerShape, depth: int, *, rngs: nnx.Rngs) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        check_explicit(shape.dtype)
        super().__init__(shape, rngs=rngs)
        self.shape: TransformerShape = shape
        self.layers = nnx.List([TransformerXLLayer(shape, rngs=rngs) for _ in range(depth)])

    def initial_memory(self, batch: int, memory_length: int | None = None) -> SegmentMemory:
        """A memory that holds nothing; see `LanguageModelBase`."""
        length = self.shape.memory_length if memory_length is None else memory_length
        return SegmentMemory(
            jnp.zeros((batch, len(self.layers), length, self.shape.width), self.dtype),
            None,
            jnp.zeros((batch,), jnp.int32),
        )

    def __call__(
        self,
        tokens: jax.Array,
        memory: SegmentMemory | None = None,
        *,
        probe: BackwardStats | None = None,
    ) -> Prediction:
        """Predict the next token at each position.

        Args:
            tokens: (batch, length) int32, any length.
            memory: of the segment before; None holds nothing.
            probe: there is no solve, so it stays zero (``Status.NOT_RUN``).
        """
        del probe
        memory = self.initial_memory(tokens.shape[0]) if memory is None else memory
        h, entered = self.embed(tokens), []
        for index, layer in enumerate(self.layers):
            entered.append(h)
            before = memory.states[:, index]
            h = layer(h, layer.prepare(None, before, None, memory.filled, tokens.shape[1]))
        kept = memory.extended(jnp.stack(entered, axis=1))
        if self.shape.pre_layer_norm:
            h = layer_norm(h)
        return Prediction(self._dropped(h), None, kept)
