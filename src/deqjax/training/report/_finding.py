"""What a finding about a run says, and the options that its remedy names."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from deqjax.training.report._figures import Figures, Trend

ON_RESUME = (
    "Learning rate, clip norm and penalty may be changed with --resume, and so may tolerances, "
    "step limits and ridge if they are options of the task; another solver, adjoint or model "
    "needs a new run."
)
"""How remedies are followed."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        name: of this kind of finding, for scripts.
        found: what was seen, with its figures.
        means: what follows from it.
        remedy: what to do.
    """

    name: str
    found: str
    means: str
    remedy: str


_SETTINGS = frozenset({"tol", "max_steps"})
"""Fields by which solver settings are known in a task, whatever it calls them."""

_ARGUMENTS = {
    "tol": "the layer's tol",
    "max_steps": "the layer's max_steps",
    "ridge": "the ridge of the layer's solver",
    "damping": "the damping of the layer's solver",
    "adjoint": "the layer's adjoint",
    "backward_method": "the solver of the layer's adjoint",
    "backward_tol": "the tol of the layer's adjoint",
    "backward_max_steps": "the max_steps of the layer's adjoint",
}
"""What settings are called where a task has no option for them: its layers are built in code."""


class Options:
    """A stored config, by the names of the command line."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        found = list(_settings(config.get("task"), "task"))
        # of several nobody knows which one a finding is about
        self._solver = found[0] if len(found) == 1 else None

    def solver(self, field: str) -> Any:
        """The value of a field of the task's solver settings; None if it is not known."""
        return None if self._solver is None else self.get(f"{self._solver}.{field}")

    def tolerance(self, field: str) -> float | None:
        """The same of a field that holds a number."""
        value = self.solver(field)
        return value if isinstance(value, int | float) else None

    def of_solver(self, field: str) -> str:
        """A field of the task's solver settings as an option, or as an argument of its layers."""
        if self._solver is None or field not in self.get(self._solver):
            return _ARGUMENTS[field]
        return self.now(f"{self._solver}.{field}")

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an option such as "penalty.weight"."""
        found: Any = self._config
        for part in name.split("."):
            if not isinstance(found, Mapping) or part not in found:
                return default
            found = found[part]
        return default if found is None else found

    def now(self, name: str) -> str:
        """An option as it is written, with its value."""
        value = self.get(name)
        known = "" if value is None else f" (now {value})"
        return f"--{name.replace('_', '-')}{known}"

    @property
    def penalty(self) -> str:
        """More of what keeps the Jacobian small."""
        return f"raise {self.now('penalty.weight')}"

    @property
    def slower_learning(self) -> str:
        """Smaller updates."""
        return f"lower {self.now('optimizer.learning_rate')}"

    @property
    def careful_solver(self) -> str:
        """Smaller steps of the forward solver; "" if it has nothing to set for that."""
        match self.solver("method"):
            case "anderson":
                return f"raise {self.of_solver('ridge')}"
            case "picard" | "reversible":
                return f"lower {self.of_solver('damping')}"
        return ""


def _settings(values: Any, path: str) -> Iterator[str]:
    """Where in a task there are solver settings."""
    if isinstance(values, Mapping):
        if values.keys() >= _SETTINGS:
            yield path
        for name, value in values.items():
            yield from _settings(value, f"{path}.{name}")


def calmer(figures: Figures, options: Options) -> str:
    """What keeps training from blowing up, as far as the model has it."""
    ways = [options.slower_learning, f"lower {options.now('optimizer.clip_norm')}"]
    if figures.solves:
        ways += [options.penalty, options.careful_solver]
    *first, last = [way for way in ways if way]
    return f"{', '.join(first)}, or {last}"


def way(trend: Trend, form: str) -> str:
    """From the first quarter of the run to the last."""
    return f"{trend.early:{form}} early, {trend.late:{form}} late"
