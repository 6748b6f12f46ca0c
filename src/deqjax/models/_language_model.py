"""What the language models share: tokens to vectors before the layers, vectors to tokens after."""

import abc
import dataclasses
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax._core.types import State
from deqjax.models._equilibrium import Equilibrium, Unrolled
from deqjax.models._memory import SegmentMemory
from deqjax.models._shape import LanguageShape
from deqjax.models._transformer_layer import TransformerLayer
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


class TokenModel(nnx.Module):
    """A language model as it is trained, scored and continued.

    Called with tokens (batch, length) int32 and the memory of the segment before, it returns a
    `Prediction`. Where something is solved, z0, probe, tol and max_steps are options of the call.

    Attributes:
        shape: has the number of ``tokens`` and the ``length`` of a training segment.
    """

    shape: Any

    @property
    @abc.abstractmethod
    def before(self) -> int:
        """Positions that the last one of a training segment sees before itself."""

    @abc.abstractmethod
    def seeing(self, before: int) -> Self:
        """A copy whose positions see no further back than so many before themselves."""

    @abc.abstractmethod
    def initial_memory(self, batch: int, memory_length: int | None = None) -> SegmentMemory:
        """A memory that holds nothing.

        Args:
            batch: number of rows.
            memory_length: positions it can hold; None is the shape's. A longer one lets a position
                see further back than in training.
        """

    def zero_state(self, batch: int, length: int) -> State | None:
        """From which a solve starts, leaves (batch, length, width); None if nothing is solved."""
        del batch, length
        return None

    def reusable(self, equilibrium: Equilibrium) -> State:
        """What a later solve may start from, of the form of `zero_state`."""
        return equilibrium.solution.value

    @abc.abstractmethod
    def negative_log_likelihood(self, states: jax.Array, targets: jax.Array) -> jax.Array:
        """Of targets (batch, length) int32 given the states: (batch, length) float32, in nats."""

    @abc.abstractmethod
    def log_probabilities(self, states: jax.Array) -> jax.Array:
        """Of all tokens: (batch, length, vocabulary) float32."""


class LanguageModelBase(TokenModel):
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

    @property
    def before(self) -> int:
        """Positions that the last one of a training segment sees before itself.

        These are the memory, and the segment up to itself.
        """
        before: int = self.shape.memory_length + self.shape.length - 1
        return before

    def seeing(self, before: int) -> Self:
        """A copy whose positions see no further back, also in a segment after a full memory."""
        copy: Self = nnx.clone(self)
        for _, node in nnx.iter_graph(copy):
            if isinstance(node, TransformerLayer):
                horizon = min(node.shape.horizon, before + 1)
                node.shape = dataclasses.replace(node.shape, horizon=horizon)
        return copy

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
