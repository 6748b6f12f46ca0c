"""The attractor language model.

A Transformer's last blocks, tied to themselves and solved for their fixed point, arXiv 2605.12466.
"""

from collections.abc import Callable
from typing import Self, cast

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax._core.types import Scalar
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.models._equilibrium import Equilibrium, iterate
from deqjax.models._language_model import Prediction, TokenModel
from deqjax.models._memory import SegmentMemory
from deqjax.models._precision import cell_dtype
from deqjax.models._solver_settings import SolverSettings
from deqjax.models.attractor._block import Block, BlockInputs, Positions
from deqjax.models.attractor._cell import AttractorCell, AttractorInputs, apply_blocks
from deqjax.models.attractor._shape import AttractorShape
from deqjax.nn import DEQ, rms_norm, rotary_angles, token_logits, token_nll, visible
from deqjax.solvers import Solution


def attractor_settings() -> SolverSettings:
    """How the published models are solved and trained.

    Anderson with 5 updates from 6 to 64 evaluations, until the worst residual is 3e-4; two terms of
    the Neumann series for the gradient.
    """
    return SolverSettings(
        min_steps=5,
        max_steps=63,
        tol=3e-4,
        history=5,
        adjoint="neumann",
        backward_max_steps=2,
    )


class AttractorLM(TokenModel):
    """Language model of a Transformer prelude and a head that is solved for its fixed point.

    With the context c that the prelude makes of the tokens, y* = head(y* + c) - y*, started at
    y = c, and logits of rms(y*). Without head blocks it is a plain Transformer, whose logits are of
    rms(c): the explicit baseline of the same parts.

    Everything is causal; the solve is so up to its residual, because a sequence's Anderson weights
    and its stop depend on all of its positions.

    Memory has the keys and values of all blocks, those of the head at the equilibrium, which later
    tokens do not move: with one, a segment costs its own positions alone. Training has none.

    Matrices start normal with variance 2 / (5 width), those that lead back into the residual stream
    with that over 2 blocks (Nguyen & Salazar 2019, arXiv 1910.05895, section 2.2), as the published
    weights do.

    Args:
        shape: sizes and options.
        settings: how the equilibrium is found and differentiated; None is `attractor_settings`.
        solver: a solver of your own, instead of the settings'.
        adjoint: a rule of your own for the gradient, instead of the settings'.
        rngs: stream "params".

    Attributes:
        shape: sizes and options.
        embedding: (rows, width) float32.
        prelude: blocks before the head.
        deq: the equilibrium layer, around an [`deqjax.models.AttractorCell`][]; None without head
            blocks.
        final_scale: (width,), of the norm before the softmax.
        softmax: (rows, width) float32; None where it is the embedding's table.
        horizon: how many positions a query sees at most; None is all there are.

    Raises:
        ValueError: a vocabulary that is not known, sizes that do not go together, or an adjoint
            that does not go with the solver.
    """

    def __init__(
        self,
        shape: AttractorShape,
        settings: SolverSettings | None = None,
        *,
        solver: Callable[..., Solution] | None = None,
        adjoint: Adjoint | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        shape.check()
        self.shape: AttractorShape = shape
        self.embedding = nnx.Param(_table(shape, rngs))
        self.prelude = nnx.List(
            [Block(shape, gated=False, rngs=rngs) for _ in range(shape.prelude_layers)]
        )
        build = (settings or attractor_settings()).build_layer
        self.deq: DEQ | None = (
            build(AttractorCell(shape, rngs=rngs), solver, adjoint, shape.dtype)
            if shape.head_layers
            else None
        )
        self.final_scale = nnx.Param(jnp.ones(shape.width, jnp.float32))
        self.softmax = None if shape.tie_embeddings else nnx.Param(_table(shape, rngs))
        self.horizon: int | None = None

    @property
    def dtype(self) -> jnp.dtype:
        """Of the states: that of the parameters."""
        dtype: jnp.dtype = self.embedding[...].dtype
        return dtype

    @property
    def before(self) -> int:
        """Positions that the last one of a training segment sees before itself."""
        return self.shape.length - 1

    def seeing(self, before: int) -> Self:
        """A copy whose positions see no further back than so many before themselves."""
        copy: Self = nnx.clone(self)
        copy.horizon = before + 1
        return copy

    def initial_memory(self, batch: int, memory_length: int | None = None) -> SegmentMemory:
        """A memory that holds nothing; None is the training's, which can hold nothing."""
        shape = self.shape
        size = (batch, shape.blocks, memory_length or 0, 2 * shape.groups * shape.head_width)
        return SegmentMemory(jnp.zeros(size, self.dtype), None, jnp.zeros((batch,), jnp.int32))

    def zero_state(self, batch: int, length: int) -> jax.Array | None:
        """A start of the solve that is the context itself, (batch, length, width).

        None without a head.
        """
        if self.deq is None:
            return None
        return jnp.zeros((batch, length, self.shape.width), self.dtype)

    def inputs(self, tokens: jax.Array, memory: SegmentMemory | None = None) -> AttractorInputs:
        """What the head needs besides y for tokens (batch, length) int32 after a memory."""
        return self._read(tokens, self.initial_memory(len(tokens)) if memory is None else memory)[0]

    def __call__(
        self,
        tokens: jax.Array,
        memory: SegmentMemory | None = None,
        *,
        z0: jax.Array | None = None,
        probe: BackwardStats | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
        layers: int | None = None,
    ) -> Prediction:
        """Predict the next token at each position.

        Args:
            tokens: (batch, length) int32, any length.
            memory: of the segment before; None holds nothing.
            z0: where the solve starts, from the context: y = c + z0, as `reusable` gives it of
                another solve; zeros if None.
            probe: [`deqjax.backward_probe`][] of this batch.
            tol: overrides the tolerance, may be traced.
            max_steps: overrides the step limit, may be traced.
            layers: instead of solving, apply the head so many times and differentiate through all
                of them. The equilibrium is then None.
        """
        memory = self.initial_memory(len(tokens)) if memory is None else memory
        u, remembered = self._read(tokens, memory)
        if self.deq is None:
            return Prediction(self._normal(u.context), None, _extended(memory, remembered))
        start = u.context if z0 is None else u.context + z0
        y, found = iterate(
            self.deq, u, start, probe=probe, tol=tol, max_steps=max_steps, layers=layers
        )
        if memory.states.shape[-2]:  # the equilibrium's own keys and values: one evaluation more
            remembered = remembered + cast(AttractorCell, self.deq.cell).head(y, u)[1]
        states, kept = self._normal(y), _extended(memory, remembered)
        if isinstance(found, Equilibrium):
            return Prediction(states, found, kept)
        return Prediction(states, None, kept, found)

    def reusable(self, equilibrium: Equilibrium) -> jax.Array:
        """What a later solve may start from: y* - c."""
        start: jax.Array = equilibrium.solution.value - equilibrium.u.context
        return start

    def negative_log_likelihood(self, states: jax.Array, targets: jax.Array) -> jax.Array:
        """Of targets (batch, length) int32 given the states: (batch, length) float32, in nats."""
        scaled = states * self.shape.logit_scale
        return token_nll(scaled, self._table(), targets, softcap=self.shape.logit_softcap)

    def logits(self, states: jax.Array) -> jax.Array:
        """Of all tokens: (batch, length, rows) float32."""
        scaled = states * self.shape.logit_scale
        return token_logits(scaled, self._table(), softcap=self.shape.logit_softcap)

    def log_probabilities(self, states: jax.Array) -> jax.Array:
        """Of all tokens: (batch, length, rows) float32."""
        return jax.nn.log_softmax(self.logits(states))

    def _read(
        self, tokens: jax.Array, memory: SegmentMemory
    ) -> tuple[AttractorInputs, list[jax.Array]]:
        """What the head needs, and what later positions need of the prelude's blocks."""
        shape, length, before = self.shape, tokens.shape[1], memory.states.shape[-2]
        dtype = cell_dtype(shape.dtype, self.dtype)
        # rotary positions tell distances alone, so a memory's first slot is at 0
        places = jnp.arange(before + length)
        angles = rotary_angles(places, shape.head_width, base=shape.rotary_base)
        horizon = before + length if self.horizon is None else self.horizon
        filled = memory.filled if before else None
        seen = visible(length, before, horizon=horizon, filled=filled)
        positions = Positions(angles[before:], seen)

        def ready(block: Block, index: int) -> BlockInputs:
            if not before:
                return block.prepare(dtype, None, None)
            return block.prepare(dtype, memory.states[:, index], angles[:before])

        x = shape.embedding_scale * jnp.take(self.embedding[...], tokens, axis=0)
        first = tuple(ready(block, index) for index, block in enumerate(self.prelude))
        context, remembered = apply_blocks(x, first, positions, shape, recompute=shape.recompute)
        head = () if self.deq is None else cast(AttractorCell, self.deq.cell).blocks
        last = tuple(ready(block, len(first) + index) for index, block in enumerate(head))
        return AttractorInputs(context, last, positions), remembered

    def _normal(self, y: jax.Array) -> jax.Array:
        scale: jax.Array = self.final_scale[...]
        return rms_norm(y, epsilon=self.shape.norm_epsilon) * scale

    def _table(self) -> jax.Array:
        table: jax.Array = (self.embedding if self.softmax is None else self.softmax)[...]
        return table


def _extended(memory: SegmentMemory, remembered: list[jax.Array]) -> SegmentMemory:
    if not memory.states.shape[-2]:
        return memory
    return memory.extended(jnp.stack(remembered, axis=1))


def _table(shape: AttractorShape, rngs: nnx.Rngs) -> jax.Array:
    start = jax.nn.initializers.normal((2 / (5 * shape.width)) ** 0.5)
    return start(rngs.params(), (shape.rows, shape.width), jnp.float32)
