"""deqjax: deep equilibrium models in JAX.

Solve z* = f(z*, x) for a batch, differentiate it at constant memory, and keep it stable:

    solution = deqjax.fixed_point(f, z0, params, x)
    penalty = deqjax.jacobian_penalty(f, solution.value, params, x, key=key)
"""

import importlib.metadata

from deqjax import adjoints, solvers
from deqjax._core.determinism import NotDeterministicError
from deqjax._core.independence import CoupledRowsError
from deqjax._core.segments import Segments
from deqjax._eager import clear_programs
from deqjax._fixed_point import fixed_point
from deqjax.adjoints import BackwardStats, backward_probe
from deqjax.diagnostics import check_gradient, depth_sweep
from deqjax.jacobian import jacobian_penalty, spectral_norm, spectral_radius
from deqjax.solvers import Solution, Stats, Status

__version__ = importlib.metadata.version("deqjax")

__all__ = [
    "BackwardStats",
    "CoupledRowsError",
    "NotDeterministicError",
    "Segments",
    "Solution",
    "Stats",
    "Status",
    "adjoints",
    "backward_probe",
    "check_gradient",
    "clear_programs",
    "depth_sweep",
    "fixed_point",
    "jacobian_penalty",
    "solvers",
    "spectral_norm",
    "spectral_radius",
]
