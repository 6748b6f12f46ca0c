"""What is wrong with the solves of the last steps, as soon as it can be seen."""

from collections.abc import Mapping
from typing import Any

from deqjax.training.report import _solver_findings
from deqjax.training.report._figures import measure
from deqjax.training.report._finding import Options


def warnings(config: Mapping[str, Any], step: int, metrics: Mapping[str, float]) -> dict[str, str]:
    """A sentence about each kind of solve that fails too often, by its name, with what to do.

    Args:
        config: the run's, as it is stored.
        step: finished steps.
        metrics: means over the last steps before.
    """
    figures = measure([{"step": step, "split": "train", **metrics}], config, None)
    options = Options(config)
    found = [each for rule in _solver_findings.OF_ONE_RECORD for each in rule(figures, options)]
    return {each.name: f"{each.found}: {each.remedy}" for each in found}
