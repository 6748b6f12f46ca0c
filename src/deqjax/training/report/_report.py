"""How well a run does: its figures and what is wrong with it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from deqjax._records import Record
from deqjax.training._workdir import Workdir, read_config
from deqjax.training.records import read_metrics
from deqjax.training.report import _run_findings, _solver_findings
from deqjax.training.report._figures import LEAST_RECORDS, Figures, measure
from deqjax.training.report._finding import Finding, Options
from deqjax.training.report._folders import steps_on_disk

Rule: TypeAlias = Callable[[Figures, Options], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    _run_findings.not_finite,
    _run_findings.skipped,
    _run_findings.rolled_back,
    _run_findings.no_checkpoint,
    *_solver_findings.OF_ONE_RECORD,
    _solver_findings.residual_grows,
    _solver_findings.steps_grow,
    _solver_findings.no_contraction,
    _run_findings.training_rises,
    _run_findings.overfitted,
    _run_findings.waits,
    _run_findings.slower,
    _run_findings.memory_grows,
)
"""What is looked for, the gravest first."""


@dataclasses.dataclass(frozen=True)
class Report:
    """How well a run does.

    Attributes:
        figures: what its records add up to.
        findings: what is wrong, the gravest first.
    """

    figures: Figures
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """The findings in a sentence."""
        if self.findings:
            return f"{len(self.findings)} finding(s):"
        if self.figures.train is None:
            return "There is nothing to judge yet."
        if not self.figures.trends:
            return (
                f"Nothing is wrong so far; trends need {LEAST_RECORDS} records of training after "
                "the warm-up."
            )
        return "Nothing is wrong."


def build_report(
    records: Sequence[Record],
    config: Mapping[str, Any],
    checkpoints: Sequence[int] | None = None,
) -> Report:
    """Judges a run by its records; each rule's module explains its thresholds.

    Args:
        records: of `read_metrics`; may be few or none, lack solver metrics (an explicit model), and
            hold values that are not finite.
        config: the run's config as it is stored; fields that are missing, as in runs of earlier
            versions, are gone without.
        checkpoints: steps that are on disk; None if that is not known.
    """
    figures = measure(records, config, checkpoints)
    options = Options(config)
    return Report(figures, tuple(found for rule in RULES for found in rule(figures, options)))


def inspect_run(path: Path | str, *, say: Callable[[str], None] | None = None) -> Report:
    """Judges the run in a folder, finished or under way.

    Args:
        path: the folder.
        say: is told of damaged records, which are left out.

    Raises:
        WorkdirError: if the folder holds no run.
        MetricsError: if its metrics cannot be read.
    """
    _, config = read_config(path)
    folder = Workdir.at(path)
    records = read_metrics(folder.metrics, say=say)
    return build_report(records, config, steps_on_disk(folder))
