"""How long a rule's backward solve may take: what is planned with before anything is solved."""

from deqjax._core.tolerance import Controls
from deqjax._core.types import Scalar
from deqjax.adjoints._both_modes import BothModes
from deqjax.adjoints._implicit import implicit
from deqjax.adjoints._pattern import Adjoint, WithBackward


def backward_steps(adjoint: Adjoint | None) -> Scalar | None:
    """The step limit of a rule's backward solve, None for a rule that has none of its own.

    Args:
        adjoint: the rule, or None for the default one.

    Examples:
        >>> from deqjax import adjoints
        >>> adjoints.backward_steps(adjoints.implicit(max_steps=8))
        8
        >>> adjoints.backward_steps(adjoints.jacobian_free()) is None
        True
    """
    match adjoint or implicit():
        case BothModes(controls=Controls() as told) | WithBackward(controls=Controls() as told):
            return told.max_steps
    return None
