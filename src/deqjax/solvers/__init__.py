"""Fixed-point solvers: pure functions ``solver(f, z0, *, tol, max_steps, ...) -> Solution``."""

from deqjax._core.low_rank import LowRankInverse
from deqjax._core.solution import Solution, Stats, Status
from deqjax.solvers._anderson import anderson
from deqjax.solvers._broyden import broyden
from deqjax.solvers._gmres import gmres
from deqjax.solvers._jaxopt import jaxopt
from deqjax.solvers._loop import LoopOptions
from deqjax.solvers._mixed_precision import mixed_precision
from deqjax.solvers._newton_krylov import newton_krylov
from deqjax.solvers._picard import picard
from deqjax.solvers._reversible import reversible

__all__ = [
    "LoopOptions",
    "LowRankInverse",
    "Solution",
    "Stats",
    "Status",
    "anderson",
    "broyden",
    "gmres",
    "jaxopt",
    "mixed_precision",
    "newton_krylov",
    "picard",
    "reversible",
]
