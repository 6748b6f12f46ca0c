"""The equilibrium reasoner.

"Equilibrium reasoners" (2026), arXiv 2605.21488, and with ``damping=1`` and no noise the tiny
recursive model (Jolicoeur-Martineau 2025, "Less is More: Recursive Reasoning with Tiny Networks",
arXiv 2510.04871).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax import adjoints
from deqjax._core.types import Scalar
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.models._equilibrium import Equilibrium, solved
from deqjax.models._solver_settings import SolverSettings
from deqjax.models._thinking import check_states, thinking_layer
from deqjax.models.reasoner._cell import ReasonerCell, ReasonerStates
from deqjax.models.reasoner._layer import check_puzzles
from deqjax.models.reasoner._repeat import repeat
from deqjax.models.reasoner._shape import ReasonerShape
from deqjax.solvers import Solution

# of a normal distribution that is cut off at two deviations
_CUT_DEVIATION = 0.87962566103423978


class Answer(NamedTuple):
    """What a pass of a reasoner returns.

    Attributes:
        logits: (batch, N, tokens) float32.
        halting: (batch, 2) float32; the first of the two numbers is positive where the model takes
            its answer for right, the second is not used.
        states: where the pass ended; the next one starts there.
        equilibrium: what was solved.
    """

    logits: jax.Array
    halting: jax.Array
    states: ReasonerStates
    equilibrium: Equilibrium


def reasoner_settings() -> SolverSettings:
    """The published iteration: passes of three cycles, of which the last has a gradient."""
    return SolverSettings(
        method="picard",
        max_steps=3,
        tol=0.0,
        returns="last",
        adjoint="truncated",
        backward_max_steps=1,
    )


def _counts_steps(settings: SolverSettings) -> bool:
    """Whether the iteration takes all its steps plainly, whatever their residuals."""
    plain = settings.method == "picard" and settings.damping in (None, 1.0)
    return plain and settings.tol == 0 and settings.returns == "last"


class Reasoner(nnx.Module):
    """Two nested states, iterated until the answer that is read from one of them is right.

    A cycle, [`ReasonerCell`][deqjax.models.ReasonerCell], is the map of an equilibrium layer. In
    training mode a call is one pass: ``settings.max_steps`` cycles, of which with the adjoint
    "truncated" only the last ``settings.backward_max_steps`` have a gradient, as published; any
    other adjoint takes the pass for the solve of a fixed point. States are handed on from pass to
    pass by the caller. In evaluation mode a call iterates ``cycles`` cycles at once, without
    gradient through the iteration, and noise is off: what several passes would do.

    Args:
        shape: sizes and options.
        settings: how a pass iterates and is differentiated; None is `reasoner_settings`.
        cycles: of a call in evaluation mode; None is one pass.
        solver: a solver of your own, instead of the settings'.
        adjoint: a rule of your own for the gradient of a pass, instead of the settings'.
        rngs: streams "params", "noise" and "starts".

    Attributes:
        shape: sizes and options.
        embedding: (tokens, D).
        head: (D, tokens).
        halting: kernel (D, 2) and bias of the halting numbers.
        deq: the equilibrium layer of a training pass.
        thinking: that of evaluation mode, around the same cell.
        draws: random stream of starts and of whatever a task draws beside them.
        deterministic: whether it is in evaluation mode.

    Raises:
        ValueError: sizes that are not known or do not go together, or settings that do not.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from deqjax.models import Reasoner, ReasonerShape
        >>> shape = ReasonerShape(tokens=5, width=16, heads=2, layers=1, multiple=16, inner_steps=2)
        >>> model = Reasoner(shape, cycles=12, rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> states = model.initial_states(2, 9, jax.random.key(0))
        >>> answer = model(jnp.ones((2, 9), jnp.int32), states)
        >>> print(answer.logits.shape, answer.equilibrium.solution.stats.steps)
        (2, 9, 5) [12 12]
    """

    def __init__(
        self,
        shape: ReasonerShape,
        settings: SolverSettings | None = None,
        *,
        cycles: int | None = None,
        solver: Callable[..., Solution] | None = None,
        adjoint: Adjoint | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        shape.check()
        settings = reasoner_settings() if settings is None else settings
        self.shape = shape
        width, tokens = shape.width, shape.vocabulary
        start = jax.nn.initializers.truncated_normal(width**-0.5 / _CUT_DEVIATION)
        self.embedding = nnx.Param(start(rngs.params(), (tokens, width), jnp.float32))
        self.head = nnx.Param(start(rngs.params(), (width, tokens), jnp.float32))
        # no puzzle counts as solved before halting was learned
        self.halting = nnx.Linear(
            width,
            2,
            kernel_init=nnx.initializers.zeros_init(),
            bias_init=nnx.initializers.constant(-5.0),
            rngs=rngs,
        )
        cell = ReasonerCell(shape, rngs=rngs)
        noisy = shape.noise > 0  # and then its cycles are numbered
        if noisy and solver is None and settings.method == "reversible":
            raise ValueError(
                f"noise {shape.noise:g} differs from cycle to cycle, and the method 'reversible' "
                "undoes cycles without their number; set noise to 0."
            )
        self.deq = settings.build_layer(cell, solver, adjoint, numbered=noisy)
        self.thinking = thinking_layer(
            self.deq,
            tol=settings.tol,
            max_steps=settings.max_steps if cycles is None else cycles,
        )
        if adjoint is None and settings.adjoint == "truncated":
            self._differentiate_the_end(settings, plain=solver is None)
        self.draws = rngs["starts"].fork()
        self.deterministic = False

    def _differentiate_the_end(self, settings: SolverSettings, *, plain: bool) -> None:
        """Count the steps with a gradient among the cycles of a pass, not on top of them."""
        before = settings.max_steps - settings.backward_max_steps
        if before < 0:
            raise ValueError(
                f"a pass of {settings.max_steps} cycles (max_steps) cannot have a gradient through "
                f"the last {settings.backward_max_steps} (backward_max_steps)."
            )
        if not before:  # all of them have one
            self.deq.adjoint = adjoints.unrolled()
            return
        self.deq.max_steps = before
        if plain and _counts_steps(settings):
            self.deq.solver = repeat

    def __call__(
        self,
        tokens: jax.Array,
        states: ReasonerStates,
        *,
        probe: BackwardStats | None = None,
        tol: Scalar | None = None,
        max_steps: Scalar | None = None,
    ) -> Answer:
        """Think about puzzles for a pass, or in evaluation mode for ``cycles`` cycles.

        Args:
            tokens: (batch, N) int.
            states: where to start, (batch, N, D) each; no gradient reaches them.
            probe: of the backward solve.
            tol: overrides the layer's tolerance.
            max_steps: overrides the layer's step limit: the cycles, in training mode with
                "truncated" those before the ones that have a gradient.

        Raises:
            ValueError: tokens that the model cannot take, or states of another shape.
        """
        check_puzzles(tokens, self.shape)
        check_states(states, tokens, self.shape.width)
        x = self.embed(tokens)
        states = jax.lax.stop_gradient(states)
        layer = self.thinking if self.deterministic else self.deq
        found = solved(layer, x, states, probe=probe, tol=tol, max_steps=max_steps)
        end = cast(ReasonerStates, found.solution.value)
        logits, halting = self.read(end.high)
        return Answer(logits, halting, jax.lax.stop_gradient(end), found)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """The x of tokens (batch, N): (batch, N, D) float32."""
        found: jax.Array = math.sqrt(self.shape.width) * self.embedding[...][tokens]
        return found

    def read(self, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits and halting numbers of a high state (batch, N, D)."""
        return high @ self.head[...], self.halting(high[:, 0])

    def initial_states(self, batch: int, length: int, key: jax.Array) -> ReasonerStates:
        """Random starts: normal, cut off at two deviations, (batch, length, D) each."""
        size = (batch, length, self.shape.width)
        return ReasonerStates(
            *(
                deviation
                / _CUT_DEVIATION
                * jax.random.truncated_normal(own, -2.0, 2.0, size, jnp.float32)
                for own, deviation in zip(
                    jax.random.split(key), self.shape.start_deviations, strict=True
                )
            )
        )
