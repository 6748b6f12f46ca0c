"""What a run's metrics are called and how they are written, wherever a person reads them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from deqjax._records import loss_unit
from deqjax._scores import scores, throughput, words_of_score

Values = Mapping[str, Any]
"""Metrics by name, of a record of `read_metrics` or on their way to one."""


class Quantity(NamedTuple):
    """One line of a table: one metric, or two of a kind.

    Attributes:
        label: what is measured.
        parts: metric -> what tells it from the other one on the line, "" where there is one only.
        form: of a value, as `format` takes it.
    """

    label: str
    parts: dict[str, str]
    form: str


class Row(NamedTuple):
    """A line of a table, as text; a value that was not measured is ""."""

    label: str
    training: str
    validation: str


QUANTITIES = (
    Quantity("steps forward", {"forward_steps": "mean", "forward_steps_max": "largest"}, ".3g"),
    Quantity("steps backward", {"backward_steps": "mean", "backward_steps_max": "largest"}, ".3g"),
    Quantity("residual", {"forward_residual": "forward", "backward_residual": "backward"}, ".1e"),
    Quantity(
        "converged", {"forward_converged": "forward", "backward_converged": "backward"}, ".1%"
    ),
    Quantity("diverged", {"forward_diverged": "forward", "backward_diverged": "backward"}, ".1%"),
    Quantity("penalty", {"penalty": ""}, ".3g"),
    Quantity(
        "spectral radius", {"spectral_radius": "mean", "spectral_radius_max": "largest"}, ".3f"
    ),
    Quantity("gradient norm", {"gradient_norm": ""}, ".3g"),
    Quantity("learning rate", {"learning_rate": ""}, ".3g"),
    Quantity("updates skipped", {"skipped": ""}, ".0f"),
    Quantity("waiting for data", {"data_wait": ""}, ".1%"),
    Quantity("memory, GiB", {"host_memory_gib": "host", "device_memory_gib": "device"}, ".3g"),
)
"""What the engine measures of any task: lines of a table, in this order, below the task's own."""


def rows(training: Values, validation: Values) -> list[Row]:
    """The lines of a table with the values of one record of each split.

    Lines of which neither record has a value are left out; either record may be empty.
    """
    measured = [values for values in (training, validation) if values]
    if not measured:
        return []
    name, unit = loss_unit(measured)
    loss = Quantity(f"loss, {unit}" if unit else "loss", {name: ""}, ".4f")
    # what was validated has more of them, and they are in its order
    names = [*validation, *training]
    own = [_score(each) for each in scores(names, loss=name)]
    speed = throughput(names)
    speeds = [] if speed is None else [_speed(speed)]
    lines = (loss, *own, *QUANTITIES, *speeds)
    return [row for line in lines if (row := _row(line, training, validation))]


def words_of(name: str) -> tuple[str, str]:
    """What a metric is called on its own, and the form of its values."""
    for quantity in QUANTITIES:
        if name in quantity.parts:
            word = quantity.parts[name]
            return f"{quantity.label}, {word}" if word else quantity.label, quantity.form
    if name.endswith("_per_second"):
        return _speed(name).label, _speed(name).form
    return words_of_score(name)


def written(value: float, form: str) -> str:
    """A value in its form; "nan", "inf" or "-inf" if it is not finite."""
    return format(value, form) if math.isfinite(value) else str(value)


def _score(name: str) -> Quantity:
    label, form = words_of_score(name)
    return Quantity(label, {name: ""}, form)


def _speed(name: str) -> Quantity:
    return Quantity(name.replace("_", " "), {name: ""}, ",.0f")


def _row(quantity: Quantity, training: Values, validation: Values) -> Row | None:
    parts = {n: word for n, word in quantity.parts.items() if n in training or n in validation}
    if not parts:
        return None
    words = " / ".join(word for word in parts.values() if word)
    cells = [_cell(values, parts, quantity.form) for values in (training, validation)]
    return Row(f"{quantity.label}, {words}" if words else quantity.label, *cells)


def _cell(values: Values, parts: Mapping[str, str], form: str) -> str:
    if not any(name in values for name in parts):
        return ""
    found = [written(float(values[n]), form) if n in values else "-" for n in parts]
    return " / ".join(found)
