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
        """The value of an option such as "model.solver.tol"."""
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
        match self.get("model.solver.method"):
            case "anderson":
                return f"raise {self.now('model.solver.ridge')}"
            case "picard" | "reversible":
                return f"lower {self.now('model.solver.damping')}"
        return ""


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
