"""Solver settings that cannot work together, said before anything is built."""

from deqjax.models import SolverSettings
from deqjax.training import ConfigError


def check_solver(settings: SolverSettings) -> None:
    """Raise a ConfigError for settings that do not go together."""
    try:
        settings.build_solver()
    except ValueError as error:
        raise ConfigError(f"--task.network.solver.damping: {error}") from error
    try:
        settings.build_adjoint()
    except ValueError as error:
        raise ConfigError(f"--task.network.solver.adjoint: {error}") from error
