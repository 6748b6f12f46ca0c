"""A small DEQ-Transformer language model, and the same network unrolled with untied layers."""

import dataclasses
import functools
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax import adjoints, solvers
from deqjax._types import Map, Scalar
from deqjax.adjoints import BackwardStats
from deqjax.nn import DEQ, FeedForward, SelfAttention
from deqjax.solvers import Solution


@dataclasses.dataclass(frozen=True)
class TransformerShape:
    """Sizes of the network.

    Attributes:
        vocabulary: number of tokens; 256 for bytes.
        length: longest sequence, in tokens.
        width: features per position.
        heads: attention heads; divide width.
        hidden: features inside the feed-forward.
        dropout: rate on the outputs of attention and feed-forward and on the embedding.
        weight_scale: standard deviation of the cell's initial weights relative to LeCun's; smaller
            weights make the injection strong against z, and the start more contractive.
    """

    vocabulary: int = 256
    length: int = 64
    width: int = 128
    heads: int = 4
    hidden: int = 512
    dropout: float = 0.0
    weight_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class SolverSettings:
    """How the equilibrium is found and differentiated.

    Attributes:
        max_steps: forward steps at most.
        tol: relative residual at which a sequence stops.
        backward_max_steps: backward steps at most; 0 is the Jacobian-free gradient.
        backward_tol: relative residual of the backward solve.
        history: Anderson's history, in both directions.
        ridge: Anderson's relative Tikhonov weight.
    """

    max_steps: int = 12
    tol: float = 1e-3
    backward_max_steps: int = 12
    backward_tol: float = 1e-3
    history: int = 6
    ridge: float = 1e-5


class Equilibrium(NamedTuple):
    """What an equilibrium model solved: enough to penalize or to inspect the Jacobian there.

    Attributes:
        f: the frozen cell, ``f(z, u)``.
        u: the injection, (batch, length, 4 width).
        solution: the fixed point and how it was found.
    """

    f: Map
    u: jax.Array
    solution: Solution


class Prediction(NamedTuple):
    """Logits (batch, length, vocabulary), and the equilibrium; None for an explicit model."""

    logits: jax.Array
    equilibrium: Equilibrium | None


class TransformerCell(nnx.Module):
    """One post-LN Transformer layer with injected input.

    h = LN(z + attention(z, u_qkv) + u_h),  f(z, u) = LN(h + feed_forward(h))

    Layer norm has no parameters: gains would be free to raise the Jacobian's norm.
    """

    def __init__(self, shape: TransformerShape, *, rngs: nnx.Rngs) -> None:
        scale = shape.weight_scale
        self.attention = SelfAttention(shape.width, shape.heads, weight_scale=scale, rngs=rngs)
        self.feed_forward = FeedForward(shape.width, shape.hidden, weight_scale=scale, rngs=rngs)
        self.attention_dropout = nnx.Dropout(shape.dropout, rngs=rngs)
        self.feed_forward_dropout = nnx.Dropout(shape.dropout, rngs=rngs)
        self.norm = _layer_norm(shape.width, rngs)

    def __call__(self, z: jax.Array, u: jax.Array) -> jax.Array:
        """Apply the layer; z (batch, length, width), u (batch, length, 4 width)."""
        u_qkv, u_h = jnp.split(u, [3 * z.shape[-1]], axis=-1)
        h = self.norm(z + self.attention_dropout(self.attention(z, u_qkv)) + u_h)
        result: jax.Array = self.norm(h + self.feed_forward_dropout(self.feed_forward(h)))
        return result


class _TransformerLM(nnx.Module):
    """What both models share: embedding and injection before the layers, logits after them."""

    def __init__(self, shape: TransformerShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        # unit variance: a weaker start lets z drown the input
        unit = jax.nn.initializers.normal(1.0)
        self.tokens = nnx.Embed(shape.vocabulary, shape.width, embedding_init=unit, rngs=rngs)
        self.positions = nnx.Embed(shape.length, shape.width, embedding_init=unit, rngs=rngs)
        self.injection = nnx.Linear(shape.width, 4 * shape.width, rngs=rngs)
        self.dropout = nnx.Dropout(shape.dropout, rngs=rngs)
        self.readout = nnx.Linear(shape.width, shape.vocabulary, rngs=rngs)

    def inject(self, tokens: jax.Array) -> jax.Array:
        """The injection u (batch, length, 4 width) of tokens (batch, length) int32."""
        length = tokens.shape[1]
        if length > self.shape.length:
            raise ValueError(
                f"tokens have length {length}, the model takes at most {self.shape.length}."
            )
        embedded = self.tokens(tokens) + self.positions(jnp.arange(length))
        u: jax.Array = self.injection(self.dropout(embedded))
        return u

    def start(self, tokens: jax.Array) -> jax.Array:
        """z0: zeros (batch, length, width) in the parameters' dtype."""
        dtype = self.tokens.embedding.get_value().dtype
        return jnp.zeros((*tokens.shape, self.shape.width), dtype)


class DEQTransformerLM(_TransformerLM):
    """Language model whose hidden states are the fixed point of one Transformer layer.

    Bai, Kolter & Koltun, NeurIPS 2019, at small size and with absolute positions. The cell is
    causal; the solve is so up to its residual, because a sequence's Anderson weights and its stop
    depend on all of its positions.
    """

    def __init__(
        self, shape: TransformerShape, settings: SolverSettings, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(shape, rngs=rngs)
        anderson = functools.partial(
            solvers.anderson, history=settings.history, ridge=settings.ridge
        )
        self.deq = DEQ(
            TransformerCell(shape, rngs=rngs),
            solver=anderson,
            adjoint=adjoints.implicit(anderson, settings.backward_tol, settings.backward_max_steps),
            tol=settings.tol,
            max_steps=settings.max_steps,
        )

    def __call__(
        self,
        tokens: jax.Array,
        *,
        z0: jax.Array | None = None,
        probe: BackwardStats | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
    ) -> Prediction:
        """Predict the next token at each position.

        Args:
            tokens: (batch, length) int32.
            z0: start of the solve, (batch, length, width); zeros if None.
            probe: :func:`deqjax.backward_probe` of this batch.
            tol: overrides the tolerance, may be traced.
            max_steps: overrides the step limit, may be traced.
        """
        u = self.inject(tokens)
        start = self.start(tokens) if z0 is None else z0
        f = self.deq.freeze(u, start)
        solution = self.deq(u, z0=start, f=f, probe=probe, tol=tol, max_steps=max_steps)
        return Prediction(self.readout(solution.value), Equilibrium(f, u, solution))


class ExplicitTransformerLM(_TransformerLM):
    """The same network unrolled to ``depth`` layers, each with weights of its own, from z = 0."""

    def __init__(self, shape: TransformerShape, depth: int, *, rngs: nnx.Rngs) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        super().__init__(shape, rngs=rngs)
        self.layers = nnx.List([TransformerCell(shape, rngs=rngs) for _ in range(depth)])

    def __call__(self, tokens: jax.Array, *, probe: BackwardStats | None = None) -> Prediction:
        """Predict the next token at each position of tokens (batch, length) int32.

        There is no solve, so a probe stays zero (``Status.NOT_RUN``).
        """
        del probe
        u, z = self.inject(tokens), self.start(tokens)
        for layer in self.layers:
            z = layer(z, u)
        return Prediction(self.readout(z), None)


LanguageModel: TypeAlias = DEQTransformerLM | ExplicitTransformerLM
"""Either model; both map tokens to a :class:`Prediction`."""


def _layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, use_bias=False, use_scale=False, rngs=rngs)
