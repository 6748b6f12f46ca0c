"""What the language models share: tokens to vectors before the layers, vectors to tokens after."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax._types import Map, Operands, Scalar, State
from deqjax.adjoints import BackwardStats
from deqjax.models._memory import SegmentMemory
from deqjax.models._shape import LanguageShape
from deqjax.nn import DEQ, AdaptiveEmbedding, AdaptiveSoftmax, DropoutMask, masked
from deqjax.solvers import Solution


class Equilibrium(NamedTuple):
    """What an equilibrium model solved: enough to penalize or to inspect the Jacobian there.

    Attributes:
        f: the map ``f(z, u)`` with this call's dropout masks.
        u: everything that f needs and that does not depend on z.
        solution: the fixed point and how it was found.
    """

    f: Map
    u: Operands
    solution: Solution


class Prediction(NamedTuple):
    """What a language model returns for a segment.

    Attributes:
        states: (batch, length, width), what the model's softmax reads; give them to its
            ``negative_log_likelihood`` or ``log_probabilities``.
        equilibrium: None where nothing was solved.
        memory: what the next segment takes.
        warm_start: z of this segment's last position, (batch, 1, ...) leaves, from which a solve of
            the next position may start; None for an explicit model.
    """

    states: jax.Array
    equilibrium: Equilibrium | None
    memory: SegmentMemory
    warm_start: State | None


class LanguageModelBase(nnx.Module):
    """Embedding, dropout and softmax of a language model."""

    def __init__(self, shape: LanguageShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        # unit variance: a weaker start lets z drown the input
        self.embedding = AdaptiveEmbedding(
            shape.vocabulary,
            shape.width,
            embedding_width=shape.embedding_width,
            cutoffs=shape.cutoffs,
            divisor=shape.divisor,
            rngs=rngs,
        )
        self.softmax = AdaptiveSoftmax(
            shape.vocabulary,
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

    def initial_memory(self, batch: int, memory_length: int | None = None) -> SegmentMemory:
        """A memory that holds nothing.

        Args:
            batch: number of rows.
            memory_length: positions it can hold; None is the shape's. A longer one lets a position
                see further back than in training.
        """
        raise NotImplementedError

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


def iterate_cell(
    deq: DEQ,
    u: Operands,
    z0: State,
    probe: BackwardStats | None,
    tol: Scalar | None,
    max_steps: Scalar | None,
    layers: int | None,
) -> tuple[State, Equilibrium | None]:
    """Solve the equilibrium layer from z0, or apply its cell ``layers`` times (warm-up stage)."""
    if layers is None:
        f = deq.freeze(u, z0)
        solution = deq(u, z0=z0, f=f, probe=probe, tol=tol, max_steps=max_steps)
        return solution.value, Equilibrium(f, u, solution)
    z = z0
    for _ in range(layers):
        z = deq.cell(z, u)
    return z, None
