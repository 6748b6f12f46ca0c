"""Fixed-point solvers: pure functions ``solver(f, z0, *, tol, max_steps, ...) -> Solution``."""

from deqjax.solvers._anderson import anderson
from deqjax.solvers._loop import LoopOptions
from deqjax.solvers._picard import picard
from deqjax.solvers._solution import Solution, Stats, Status

__all__ = ["LoopOptions", "Solution", "Stats", "Status", "anderson", "picard"]
