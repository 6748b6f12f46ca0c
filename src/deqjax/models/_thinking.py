"""What networks of puzzles share: where a solve starts, and what evaluation iterates."""

import jax

from deqjax import adjoints
from deqjax._core.types import State
from deqjax.nn import DEQ


def thinking_layer(trained: DEQ, *, tol: float, max_steps: int) -> DEQ:
    """A layer around the same cell, with the same solver, for another number of steps.

    Args:
        trained: the layer of training mode.
        tol: of the solve.
        max_steps: likewise.
    """
    return DEQ(
        trained.cell,
        solver=trained.solver,
        # its value is the solver's own, whatever the rule of training makes of that
        adjoint=adjoints.jacobian_free(),
        tol=tol,
        max_steps=max_steps,
        numbered=trained.numbered,
    )


def check_states(states: State, tokens: jax.Array, width: int) -> None:
    """Raise a ValueError for a start whose arrays are not all (batch, length, width)."""
    size = (*tokens.shape, width)
    for state in jax.tree.leaves(states):
        if state.shape != size:
            raise ValueError(
                f"states must be (batch, length, width), {size} for these tokens, got "
                f"{state.shape}; initial_states makes them."
            )
