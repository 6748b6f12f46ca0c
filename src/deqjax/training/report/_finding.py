"""What a finding about a run says, and the options that its remedy names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from deqjax.training.report._figures import Figures, Trend

ON_RESUME = (
    "Learning rate, clip norm, penalty, tolerances, step limits and ridge may be changed with "
    "--resume; another solver, adjoint or model needs a new run."
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


class Options:
    """A stored config, by the names of the command line."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an option such as "optimizer.clip_norm"."""
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

    def of_task(self, field: str, default: Any = None) -> Any:
        """The value of a field of the task, however deep, such as a solver's "tol"."""
        name = self._of_task(field)
        return default if name is None else self.get(name, default)

    def named(self, field: str) -> str:
        """A field of the task as the option it is; where it is none, as one of the layer."""
        name = self._of_task(field)
        return f"{field} of the layer" if name is None else f"--{name.replace('_', '-')}"

    def named_now(self, field: str) -> str:
        """The same with its value."""
        name = self._of_task(field)
        return self.named(field) if name is None else self.now(name)

    def chosen(self, field: str, value: str) -> str:
        """A field of the task with the value that it should have."""
        name = self._of_task(field)
        return f"{value} as {self.named(field)}" if name is None else f"{self.named(field)} {value}"

    def _of_task(self, field: str) -> str | None:
        return _found(field, self._config.get("task"), "task")

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
        match self.of_task("method"):
            case "anderson":
                return f"raise {self.named_now('ridge')}"
            case "picard" | "reversible":
                return f"lower {self.named_now('damping')}"
        return ""


def _found(field: str, values: Any, name: str) -> str | None:
    """The dotted name of the first of these values, or of those below them, that a field has."""
    if not isinstance(values, Mapping):
        return None
    if field in values:
        return f"{name}.{field}"
    below = (_found(field, each, f"{name}.{key}") for key, each in values.items())
    return next((each for each in below if each is not None), None)


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
