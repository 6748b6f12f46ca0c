"""What the equilibrium language models share: a segment is solved, and its end remembered."""

import abc

import jax
from flax import nnx

from deqjax._core.types import Operands, Scalar, State
from deqjax.adjoints import BackwardStats
from deqjax.models._equilibrium import Equilibrium, iterate
from deqjax.models._language_model import LanguageModelBase, Prediction
from deqjax.models._memory import SegmentMemory
from deqjax.nn import DEQ


class EquilibriumLanguageModel(LanguageModelBase):
    """Language model whose hidden states are the fixed point of one layer.

    A subclass sets the layer and the injection, and says how z looks and what is remembered. Its
    cell is causal; the solve is so up to its residual, because a sequence's Anderson weights and
    its stop depend on all of its positions.

    Attributes:
        injection: embedding -> what is added inside the cell.
        deq: the layer.
    """

    injection: nnx.Linear
    deq: DEQ

    @abc.abstractmethod
    def zero_state(self, batch: int, length: int) -> State:
        """Z = 0, from which a solve starts; leaves (batch, length, width)."""

    @abc.abstractmethod
    def inputs(self, tokens: jax.Array, memory: SegmentMemory) -> Operands:
        """What the cell needs besides z for tokens (batch, length) int32 after a memory."""

    @abc.abstractmethod
    def _read_out(self, z: State) -> jax.Array:
        """The part of z that the softmax reads, (batch, length, width)."""

    @abc.abstractmethod
    def _remember(self, memory: SegmentMemory, z: State, u: Operands) -> SegmentMemory:
        """The memory after a segment whose equilibrium is z."""

    def __call__(
        self,
        tokens: jax.Array,
        memory: SegmentMemory | None = None,
        *,
        z0: State | None = None,
        probe: BackwardStats | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
        layers: int | None = None,
    ) -> Prediction:
        """Predict the next token at each position.

        Args:
            tokens: (batch, length) int32, any length.
            memory: of the segment before; None holds nothing.
            z0: start of the solve, as `zero_state`; zeros if None.
            probe: [`deqjax.backward_probe`][] of this batch.
            tol: overrides the tolerance, may be traced.
            max_steps: overrides the step limit, may be traced.
            layers: instead of solving, apply the cell so many times and differentiate through all
                of them: the published warm-up stage. The equilibrium is then None.
        """
        memory = self.initial_memory(tokens.shape[0]) if memory is None else memory
        u = self.inputs(tokens, memory)
        z = self.zero_state(*tokens.shape) if z0 is None else z0
        z, found = iterate(self.deq, u, z, probe=probe, tol=tol, max_steps=max_steps, layers=layers)
        states, kept = self._dropped(self._read_out(z)), self._remember(memory, z, u)
        if isinstance(found, Equilibrium):
            return Prediction(states, found, kept)
        return Prediction(states, None, kept, found)
