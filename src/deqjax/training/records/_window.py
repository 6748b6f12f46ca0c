"""The metrics of the steps since the last record, and their mean."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from deqjax.training.devices import first_replica
from deqjax.training.step import is_largest

Values = dict[str, float]


class Window:
    """Metrics of some steps; they stay on the device until they are asked for.

    Args:
        values: what is in it already, as `values` returned it.
    """

    def __init__(self, values: Iterable[Values] = ()) -> None:
        self._fetched: list[Values] = [dict(each) for each in values]
        self._pending: list[Mapping[str, Any]] = []

    def __len__(self) -> int:
        return len(self._fetched) + len(self._pending)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Add a step's metrics, for `first_replica`."""
        self._pending.append(metrics)

    def values(self) -> list[Values]:
        """The metrics of each step, which JSON can hold; waits for the last of them."""
        for metrics in self._pending:
            fetched = first_replica(dict(metrics))
            self._fetched.append({name: float(value) for name, value in fetched.items()})
        self._pending.clear()
        return self._fetched

    def averaged(self) -> Values:
        """One value of each metric.

        "skipped" is the number of steps whose update was left out; all other values are of the
        steps whose update was made, if there is any: means, and maxima of maxima. Steps without a
        penalty or without a backward solve have NaN there and do not count.
        """
        steps = self.values()
        made = [values for values in steps if not values["skipped"]] or steps
        averages: Values = {}
        for name in sorted({name for values in made for name in values}):
            found = np.asarray([values[name] for values in made if name in values], np.float64)
            if name == "penalty" or name.startswith("backward_"):
                found = found[~np.isnan(found)]
            if found.size:
                averages[name] = float(np.max(found) if is_largest(name) else np.mean(found))
        return averages | {"skipped": math.fsum(values["skipped"] for values in steps)}
