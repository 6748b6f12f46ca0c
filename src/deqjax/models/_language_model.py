"""What the language models share: tokens to vectors before the layers, vectors to tokens after."""

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models._equilibrium import Equilibrium, Unrolled
from deqjax.models._memory import SegmentMemory
from deqjax.models._shape import LanguageShape
from deqjax.nn import AdaptiveEmbedding, AdaptiveSoftmax, DropoutMask, masked


class Prediction(NamedTuple):
    """What a language model returns for a segment.

    Attributes:
        states: (batch, length, width), what the model's softmax reads; give them to its
            ``negative_log_likelihood`` or ``log_probabilities``.
        equilibrium: None where nothing was solved.
        memory: what the next segment takes.
        unrolled: where the layer was only applied some times, as in the warm-up stage.
    """

    states: jax.Array
    equilibrium: Equilibrium | None
    memory: SegmentMemory
    unrolled: Unrolled | None = None


class LanguageModelBase(nnx.Module):
    """Embedding, dropout and softmax of a language model."""

    def __init__(self, shape: LanguageShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        # unit variance: a weaker start lets z drown the input
        self.embedding = AdaptiveEmbedding(
            shape.tokens,
            shape.width,
            embedding_width=shape.embedding_width,
            cutoffs=shape.cutoffs,
            divisor=shape.divisor,
            rngs=rngs,
        )
        self.softmax = AdaptiveSoftmax(
            shape.tokens,
            shape.width,
            embedding_width=shape.embedding_width,
            cutoffs=shape.cutoffs,
            divisor=shape.divisor,
            embedding=self.embedding if shape.tie_weights else None,
            tie_projections=shape.tie_projections,
            rngs=rngs,
        )
        self.mask = DropoutMask(shape.dropout, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """Of the states: that of the parameters."""
        dtype: jnp.dtype = self.embedding.tables[0][...].dtype
        return dtype

    def embed(self, tokens: jax.Array) -> jax.Array:
        """The embedding (batch, length, width) of tokens (batch, length), after dropout."""
        return self._dropped(self.embedding(tokens))

    @abc.abstractmethod
    def initial_memory(self, batch: int, memory_length: int | None = None) -> SegmentMemory:
        """A memory that holds nothing.

        Args:
            batch: number of rows.
            memory_length: positions it can hold; None is the shape's. A longer one lets a position
                see further back than in training.
        """

    def negative_log_likelihood(self, states: jax.Array, targets: jax.Array) -> jax.Array:
        """Of targets (batch, length) int32 given the states: (batch, length) float32, in nats."""
        result: jax.Array = self.softmax.negative_log_likelihood(states, targets)
        return result

    def log_probabilities(self, states: jax.Array) -> jax.Array:
        """Of all tokens: (batch, length, vocabulary) float32."""
        result: jax.Array = self.softmax.log_probabilities(states)
        return result

    def _dropped(self, x: jax.Array) -> jax.Array:
        return masked(x, self.mask((x.shape[0], 1, x.shape[2]), x.dtype))
