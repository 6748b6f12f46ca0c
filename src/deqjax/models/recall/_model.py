"""A recurrent network that sees its input at every step, as an equilibrium model.

Bansal et al., NeurIPS 2022, "End-to-end Algorithm Synthesis with Recurrent Networks: Logical
Extrapolation Without Overthinking", arXiv 2202.05826 (the recall of the input), and Anil et al.,
NeurIPS 2022, "Path Independent Equilibrium Models Can Better Exploit Test-Time Computation", arXiv
2211.09961: it gets harder problems right by iterating longer where its end does not depend on its
start.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax._core.types import Scalar
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.models._equilibrium import Equilibrium, solved
from deqjax.models._solver_settings import SolverSettings
from deqjax.models._thinking import check_states, thinking_layer
from deqjax.models._tokens import check_rows
from deqjax.models.recall._block import RecallCell
from deqjax.models.recall._shape import RecallShape
from deqjax.nn import rms_norm
from deqjax.solvers import Solution


class Recalled(NamedTuple):
    """What a recall network returns.

    Attributes:
        logits: (batch, N, tokens) float32.
        states: where it ended, (batch, N, width), without gradient.
        equilibrium: what was solved.
    """

    logits: jax.Array
    states: jax.Array
    equilibrium: Equilibrium


def recall_settings() -> SolverSettings:
    """Up to 32 plain iterations, and 8 more that have a gradient."""
    return SolverSettings(
        method="picard",
        max_steps=32,
        tol=0.0,
        returns="last",
        adjoint="truncated",
        backward_max_steps=8,
    )


class RecallReasoner(nnx.Module):
    """One convolutional layer with recall, iterated to its fixed point; sequences of any length.

    In evaluation mode a call iterates ``steps`` times at most, and stops at ``tol``.

    Args:
        shape: sizes.
        settings: how it is iterated and differentiated in training; None is `recall_settings`.
        steps: of a call in evaluation mode at most; None is as many as in training.
        tol: relative residual at which a sample stops in evaluation mode.
        solver: one of your own, instead of the settings'.
        adjoint: a rule of your own for the gradient, instead of the settings'.
        rngs: stream "params" and "starts".

    Attributes:
        shape: sizes.
        cell: the layer that is iterated.
        head: state -> logits.
        deq: the equilibrium layer in training mode.
        thinking: that of evaluation mode, around the same cell.
        draws: random stream of starts.
        deterministic: whether it is in evaluation mode.

    Raises:
        ValueError: the number of tokens is not known, or settings do not go together.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from deqjax.models import RecallReasoner, RecallShape
        >>> model = RecallReasoner(RecallShape(tokens=3, width=8), steps=100, rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> model(jnp.ones((2, 20), jnp.int32)).logits.shape
        (2, 20, 3)
    """

    def __init__(
        self,
        shape: RecallShape,
        settings: SolverSettings | None = None,
        *,
        steps: int | None = None,
        tol: float = 1e-4,
        solver: Callable[..., Solution] | None = None,
        adjoint: Adjoint | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        settings = recall_settings() if settings is None else settings
        self.shape = shape
        self.cell = cell = RecallCell(shape, rngs=rngs)
        self.head = nnx.Linear(shape.width, shape.vocabulary, rngs=rngs)
        self.deq = settings.build_layer(cell, solver, adjoint)
        self.thinking = thinking_layer(
            self.deq, tol=tol, max_steps=settings.max_steps if steps is None else steps
        )
        self.draws = rngs["starts"].fork()
        self.deterministic = False

    def __call__(
        self,
        tokens: jax.Array,
        states: jax.Array | None = None,
        *,
        probe: BackwardStats | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
    ) -> Recalled:
        """Answer at every position.

        Args:
            tokens: (batch, N) int; one that is out of range is seen as nothing at all.
            states: where to start, (batch, N, width); zeros if None. No gradient reaches them.
            probe: of the backward solve.
            tol: overrides the layer's tolerance.
            max_steps: overrides the layer's step limit.

        Raises:
            ValueError: tokens that are no whole numbers (batch, N), or states of another shape.
        """
        check_rows(tokens)
        layer = self.thinking if self.deterministic else self.deq
        batch, length = tokens.shape
        start = self.initial_states(batch, length) if states is None else states
        check_states(start, tokens, self.shape.width)
        start = jax.lax.stop_gradient(start)
        u = self.cell.inputs(jax.nn.one_hot(tokens, self.shape.vocabulary))
        found = solved(layer, u, start, probe=probe, tol=tol, max_steps=max_steps)
        states = found.solution.value
        return Recalled(self.head(states), jax.lax.stop_gradient(states), found)

    def initial_states(self, batch: int, length: int, key: jax.Array | None = None) -> jax.Array:
        """Starts, (batch, length, width): zeros, or with a key normal and of norm 1 as states."""
        size = (batch, length, self.shape.width)
        if key is None:
            return jnp.zeros(size, jnp.float32)
        return rms_norm(jax.random.normal(key, size), epsilon=self.shape.norm_eps)
