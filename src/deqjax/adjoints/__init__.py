"""Rules for the gradient of a fixed point: ``fixed_point(..., adjoint=rule)``."""

from deqjax.adjoints._adjoint_state import by_adjoint_state
from deqjax.adjoints._backward_steps import backward_steps
from deqjax.adjoints._forward import solve_forward
from deqjax.adjoints._implicit import implicit
from deqjax.adjoints._jacobian_free import jacobian_free
from deqjax.adjoints._neumann import neumann
from deqjax.adjoints._pattern import Adjoint
from deqjax.adjoints._phantom import phantom
from deqjax.adjoints._probe import BackwardStats, backward_probe
from deqjax.adjoints._reversible import reversible
from deqjax.adjoints._shine import shine
from deqjax.adjoints._truncated import truncated
from deqjax.adjoints._unrolled import unrolled

__all__ = [
    "Adjoint",
    "BackwardStats",
    "backward_probe",
    "backward_steps",
    "by_adjoint_state",
    "implicit",
    "jacobian_free",
    "neumann",
    "phantom",
    "reversible",
    "shine",
    "solve_forward",
    "truncated",
    "unrolled",
]
