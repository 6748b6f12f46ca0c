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

from deqjax._types import Scalar
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.models._language_model import LanguageModelBase, Prediction, iterate_cell
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
from deqjax.nn import DEQ
from deqjax.solvers import Solution


class TransformerCell(TransformerLayer):
    """The layer that is iterated, f(z, u); u comes from :meth:`TransformerLayer.prepare`.

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


class DEQTransformerLM(LanguageModelBase):
    """Language model whose hidden states are the fixed point of one Transformer layer.

    The cell is causal; the solve is so up to its residual, because a sequence's Anderson weights
    and its stop depend on all of its positions.

    Args:
        shape: sizes and options.
        settings: how the equilibrium is found and differentiated.
        solver: a solver of your own, instead of the settings'.
        adjoint: a rule of your own for the gradient, instead of the settings'.
        rngs: streams "params" and "dropout".

    Raises:
        ValueError: a width that the heads do not divide, cutoffs or rates that make no sense, or an
            adjoint that does not go with the solver.
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
        self.deq = DEQ(
            TransformerCell(shape, rngs=rngs),
            solver=settings.build_solver() if solver is None else solver,
            adjoint=settings.build_adjoint() if adjoint is None else adjoint,
            tol=settings.tol,
            max_steps=settings.max_steps,
        )

    def initial_memory(self, batch: int, memory_length: int | None = None) -> SegmentMemory:
        """A memory that holds nothing; see :class:`LanguageModelBase`."""
        length = self.shape.memory_length if memory_length is None else memory_length
        width, dtype = self.shape.width, self.dtype
        return SegmentMemory(
            jnp.zeros((batch, length, width), dtype),
            jnp.zeros((batch, length, 3 * width), dtype),
            jnp.zeros((batch,), jnp.int32),
        )

    def inputs(self, tokens: jax.Array, memory: SegmentMemory) -> LayerInputs:
        """What the cell needs besides z for tokens (batch, length) int32 after a memory."""
        injection = self.injection(self.embed(tokens))
        cell = cast(TransformerCell, self.deq.cell)
        return cell.prepare(
            injection, memory.states, memory.injection, memory.filled, tokens.shape[1]
        )

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
            z0: start of the solve, (batch, length, width); zeros if None.
            probe: :func:`deqjax.backward_probe` of this batch.
            tol: overrides the tolerance, may be traced.
            max_steps: overrides the step limit, may be traced.
            layers: instead of solving, apply the cell so many times and differentiate through all
                of them: the published warm-up stage. The equilibrium is then None.
        """
        memory = self.initial_memory(tokens.shape[0]) if memory is None else memory
        u = self.inputs(tokens, memory)
        if z0 is None:
            z0 = jnp.zeros((*tokens.shape, self.shape.width), self.dtype)
        z, equilibrium = iterate_cell(self.deq, u, z0, probe, tol, max_steps, layers)
        assert u.injection is not None  # for the type checker: prepared above
        kept = memory.extended(z, u.injection[..., : 3 * self.shape.width])
        return Prediction(self._dropped(z), equilibrium, kept, jax.lax.stop_gradient(z[:, -1:]))
