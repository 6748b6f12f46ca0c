"""The DEQ-TrellisNet language model.

Bai, Kolter & Koltun, NeurIPS 2019, "Deep Equilibrium Models", arXiv 1909.01377, section 4; the
cell is a layer of Bai, Kolter & Koltun, ICLR 2019, "Trellis Networks for Sequence Modeling", arXiv
1810.06682, section 3.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.adjoints import Adjoint
from deqjax.models._equilibrium_language_model import EquilibriumLanguageModel
from deqjax.models._memory import SegmentMemory
from deqjax.models._precision import cell_dtype
from deqjax.models._shape import LanguageShape
from deqjax.models._solver_settings import SolverSettings
from deqjax.nn import DropoutMask, Weight, masked
from deqjax.solvers import Solution


class TrellisNetState(NamedTuple):
    """The state z of a TrellisNet.

    Attributes:
        c: (batch, length, width), the memory cells of its LSTM-like gates.
        h: (batch, length, width), what the gates let out, within (-1, 1).
    """

    c: jax.Array
    h: jax.Array


class TrellisNetInputs(NamedTuple):
    """What the cell needs besides z, ready to use: nothing in it depends on z.

    Attributes:
        injection: (batch, length, 4 width) added to the gates.
        history: state of the position before the first one, (batch, 1, width) each; h is masked.
        kernel: (2 width, 4 width), W1 above W2.
        mask: dropout mask (batch, 1, width) of h, or None.
    """

    injection: jax.Array
    history: TrellisNetState
    kernel: jax.Array
    mask: jax.Array | None


class TrellisNetCell(nnx.Module):
    """The layer that is iterated, f((c, h), u); u comes from `prepare`.

    a_t = h_(t-1) W1 + h_t W2 + u_t, split into i, o, g, f

    c'_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g),  h'_t = sigmoid(o) tanh(c'_t)

    The two halves of this causal convolution share one gain per output under weight normalization.
    Variational dropout acts on h before the convolution, with one mask for all positions.

    Attributes:
        shape: sizes and options.
        kernel: W1 above W2, a [`deqjax.nn.Weight`][].
        mask: dropout of h.
    """

    def __init__(self, shape: LanguageShape, *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        self.kernel = Weight(
            2 * shape.width,
            4 * shape.width,
            normalized=shape.weight_norm,
            scale=shape.weight_scale,
            rngs=rngs,
        )
        self.mask = DropoutMask(shape.dropout, rngs=rngs)

    def prepare(self, injection: jax.Array, memory: SegmentMemory) -> TrellisNetInputs:
        """Everything that does not depend on z, computed once per segment.

        Args:
            injection: see `TrellisNetInputs`.
            memory: its states are c and h side by side, (batch, positions, 2 width), of which the
                last position is used.
        """
        states = memory.states
        batch, positions, _ = states.shape
        mask = self.mask((batch, 1, self.shape.width), states.dtype)
        last = jnp.zeros((batch, 1, states.shape[2]), states.dtype)
        if positions:
            last = jnp.where((memory.filled > 0)[:, None, None], states[:, -1:], last)
        c, h = jnp.split(last, 2, axis=-1)
        dtype = cell_dtype(self.shape.dtype, states.dtype)
        history = TrellisNetState(c, masked(h, mask))
        return TrellisNetInputs(injection, history, self.kernel().astype(dtype), mask)

    def __call__(self, z: TrellisNetState, u: TrellisNetInputs) -> TrellisNetState:
        """Apply the layer to z."""
        h, dtype = masked(z.h, u.mask), z.h.dtype
        pair = jnp.concatenate([_delayed(u.history.h, h), h], axis=-1)
        a = (pair.astype(u.kernel.dtype) @ u.kernel).astype(dtype) + u.injection
        i, o, g, f = jnp.split(a.astype(dtype), 4, axis=-1)
        c = jax.nn.sigmoid(f) * _delayed(u.history.c, z.c) + jax.nn.sigmoid(i) * jnp.tanh(g)
        return TrellisNetState(c, jax.nn.sigmoid(o) * jnp.tanh(c))


def _delayed(before: jax.Array, x: jax.Array) -> jax.Array:
    """The entry t - 1 of x at t, and ``before`` at 0."""
    return jnp.concatenate([before, x[:, :-1]], axis=1)


class DEQTrellisNetLM(EquilibriumLanguageModel):
    """Language model whose hidden states are the fixed point of one TrellisNet layer.

    A segment's last state stands for all of its past, so of a ``memory_length`` above 1 the memory
    holds one position.

    Args:
        shape: sizes and options; what a `TransformerShape` has more means nothing here.
        settings: how the equilibrium is found and differentiated.
        solver: a solver of your own, instead of the settings'.
        adjoint: a rule of your own for the gradient, instead of the settings'.
        rngs: streams "params" and "dropout".

    Attributes:
        injection: from embeddings to what is added to the gates.
        deq: the equilibrium layer, around a [`deqjax.models.TrellisNetCell`][].

    Raises:
        ValueError: a vocabulary that is not known, cutoffs or rates that make no sense, or an
            adjoint that does not go with the solver.
    """

    def __init__(
        self,
        shape: LanguageShape,
        settings: SolverSettings,
        *,
        solver: Callable[..., Solution] | None = None,
        adjoint: Adjoint | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(shape, rngs=rngs)
        self.injection = nnx.Linear(shape.width, 4 * shape.width, rngs=rngs)
        cell = TrellisNetCell(shape, rngs=rngs)
        self.deq = settings.build_layer(cell, solver, adjoint, shape.dtype)

    def initial_memory(self, batch: int, memory_length: int | None = None) -> SegmentMemory:
        """A memory that holds nothing; see `LanguageModelBase`."""
        length = min(1, self.shape.memory_length if memory_length is None else memory_length)
        states = jnp.concatenate(self.zero_state(batch, length), axis=-1)
        return SegmentMemory(states, None, jnp.zeros((batch,), jnp.int32))

    def zero_state(self, batch: int, length: int) -> TrellisNetState:
        """Z = 0, c and h (batch, length, width)."""
        zeros = jnp.zeros((batch, length, self.shape.width), self.dtype)
        return TrellisNetState(zeros, zeros)

    def inputs(self, tokens: jax.Array, memory: SegmentMemory) -> TrellisNetInputs:
        """What the cell needs besides z for tokens (batch, length) int32 after a memory."""
        cell = cast(TrellisNetCell, self.deq.cell)
        return cell.prepare(self.injection(self.embed(tokens)), memory)

    def _read_out(self, z: TrellisNetState) -> jax.Array:
        return z.h

    def _remember(
        self, memory: SegmentMemory, z: TrellisNetState, u: TrellisNetInputs
    ) -> SegmentMemory:
        del u
        return memory.extended(jnp.concatenate(z, axis=-1))
