"""The DEQ-Transformer language model.

Bai, Kolter & Koltun, NeurIPS 2019, "Deep Equilibrium Models", arXiv 1909.01377, section 4, and
Bai, Koltun & Kolter, ICML 2021, "Stabilizing Equilibrium Models by Jacobian Regularization",
arXiv 2106.14342, for the pre-LN form and the regularized recipes.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.adjoints import Adjoint
from deqjax.models._equilibrium_language_model import EquilibriumLanguageModel
from deqjax.models._memory import SegmentMemory
from deqjax.models._shape import TransformerShape
from deqjax.models._solver_settings import SolverSettings
from deqjax.models._transformer_layer import (
    LayerInputs,
    TransformerLayer,
    attend,
    feed_forward,
    layer_norm,
)
from deqjax.solvers import Solution


class TransformerCell(TransformerLayer):
    """The layer that is iterated, f(z, u); u comes from `TransformerLayer.prepare`.

    post-LN:  h = LN(z + a(z)),       f = LN(h + FF(h))
    pre-LN:   n = LN(z + a(LN(z))),   f = n + FF(n)

    with a the attention and FF the feed-forward; the residual of the pre-LN form is the normalized
    state, as published. With ``residual_injection`` the argument of the (first) LN after the
    attention gains the last quarter of the injection.
    """

    def __call__(self, z: jax.Array, u: LayerInputs) -> jax.Array:
        """Apply the layer to z (batch, length, width)."""
        pre = self.shape.pre_layer_norm
        h = z + attend(layer_norm(z) if pre else z, u)
        if self.shape.residual_injection and u.injection is not None:
            h = h + u.injection[..., 3 * z.shape[-1] :]
        h = layer_norm(h)
        result = h + feed_forward(h, u)
        return result if pre else layer_norm(result)


class DEQTransformerLM(EquilibriumLanguageModel):
    """Language model whose hidden states are the fixed point of one Transformer layer.

    Args:
        shape: sizes and options.
        settings: how the equilibrium is found and differentiated.
        solver: a solver of your own, instead of the settings'.
        adjoint: a rule of your own for the gradient, instead of the settings'.
        rngs: streams "params" and "dropout".

    Attributes:
        shape: sizes and options.
        injection: from embeddings to what is injected.
        deq: the equilibrium layer, around a [`deqjax.models.TransformerCell`][].

    Raises:
        ValueError: a vocabulary that is not known, a width that the heads do not divide, cutoffs or
            rates that make no sense, or an adjoint that does not go with the solver.
    """

    def __init__(
        self,
        shape: TransformerShape,
        settings: SolverSettings,
        *,
        solver: Callable[..., Solution] | None = None,
        adjoint: Adjoint | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(shape, rngs=rngs)
        self.shape: TransformerShape = shape
        parts = 4 if shape.residual_injection else 3
        self.injection = nnx.Linear(shape.width, parts * shape.width, rngs=rngs)
        cell = TransformerCell(shape, rngs=rngs)
        self.deq = settings.build_layer(cell, solver, adjoint, shape.dtype)

    def initial_memory(self, batch: int, memory_length: int | None = None) -> SegmentMemory:
        """A memory that holds nothing; see `LanguageModelBase`."""
        length = self.shape.memory_length if memory_length is None else memory_length
        return SegmentMemory(
            self.zero_state(batch, length),
            jnp.zeros((batch, length, 3 * self.shape.width), self.dtype),
            jnp.zeros((batch,), jnp.int32),
        )

    def zero_state(self, batch: int, length: int) -> jax.Array:
        """Z = 0, (batch, length, width)."""
        return jnp.zeros((batch, length, self.shape.width), self.dtype)

    def inputs(self, tokens: jax.Array, memory: SegmentMemory) -> LayerInputs:
        """What the cell needs besides z for tokens (batch, length) int32 after a memory."""
        injection = self.injection(self.embed(tokens))
        cell = cast(TransformerCell, self.deq.cell)
        return cell.prepare(
            injection, memory.states, memory.injection, memory.filled, tokens.shape[1]
        )

    def _read_out(self, z: jax.Array) -> jax.Array:
        return z

    def _remember(self, memory: SegmentMemory, z: jax.Array, u: LayerInputs) -> SegmentMemory:
        assert u.injection is not None  # for the type checker: an equilibrium model injects
        return memory.extended(z, u.injection[..., : 3 * self.shape.width])
