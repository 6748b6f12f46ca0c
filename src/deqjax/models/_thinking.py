"""The layer that a network of puzzles iterates in evaluation, beside that of its training."""

from deqjax import adjoints
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
