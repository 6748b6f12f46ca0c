"""What is wrong with the network of a task, as a sentence that names the option."""

import contextlib
from collections.abc import Iterator
from typing import Literal, TypeAlias

from deqjax.models import SolverSettings
from deqjax.training import ConfigError

_Precision: TypeAlias = Literal["float32", "bfloat16", "mixed"]

SOLVER_CHANGES = (
    "network.solver.tol",
    "network.solver.max_steps",
    "network.solver.ridge",
    "network.solver.backward_tol",
    "network.solver.backward_max_steps",
)
"""Fields of the solver's settings that may differ when a run goes on."""


@contextlib.contextmanager
def refused_as(option: str) -> Iterator[None]:
    """Turn a ValueError into a ConfigError that names an option; a decorator as well."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


def check_solver(settings: SolverSettings, precision: _Precision, option: str) -> None:
    """Raise a ConfigError for settings that do not go together, or not with an option's dtype."""
    with refused_as("--task.network.solver.damping"):
        settings.build_solver()
    with refused_as("--task.network.solver.adjoint"):
        settings.build_adjoint()
    with refused_as(option):
        settings.check_precision(precision)
