"""deqjax: deep equilibrium models in JAX.

Solve z* = f(z*, x) for a batch, differentiate it at constant memory, and keep it stable:

    solution = deqjax.fixed_point(f, z0, params, x)
    penalty = deqjax.jacobian_penalty(f, solution.value, params, x, key=key)
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# The module of each name, imported when the name is first used: JAX takes a second to import, which
# the command line's help and version can do without.
_HOMES = {
    "BackwardStats": "adjoints",
    "CoupledRowsError": "_core.independence",
    "NotDeterministicError": "_core.determinism",
    "Segments": "_core.segments",
    "Solution": "solvers",
    "Stats": "solvers",
    "Status": "solvers",
    "backward_probe": "adjoints",
    "check_gradient": "diagnostics",
    "clear_programs": "_eager",
    "depth_sweep": "diagnostics",
    "fixed_point": "_fixed_point",
    "jacobian_penalty": "jacobian",
    "spectral_norm": "jacobian",
    "spectral_radius": "jacobian",
}

if not TYPE_CHECKING:  # a type checker would take any name for one that exists

    def __getattr__(name: str) -> Any:
        if name in ("adjoints", "solvers"):
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
