"""A report on a run as tables and sentences, and as JSON."""

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from deqjax.training.records import rows, words_of, written
from deqjax.training.report._figures import Figures, Trend
from deqjax.training.report._finding import ON_RESUME, Finding
from deqjax.training.report._report import Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_EVENTS = 5  # of the newest ones, that are shown


def print_report(report: Report, console: "Console") -> None:
    """Prints a report as tables and sentences.

    Args:
        report: of `build_report`.
        console: where to.
    """
    figures = report.figures
    _say(console, _progress(figures))
    if figures.train is not None or figures.validation is not None:
        console.print(_values(figures))
    if figures.trends:
        console.print(_trends(figures))
    for sentence in _sentences(figures):
        _say(console, sentence)
    for event in figures.events[-_EVENTS:]:
        _say(console, f"step {event.step}: {event.event}", indent=2)
    console.print()
    _say(console, report.verdict)
    for number, finding in enumerate(report.findings, start=1):
        _print_finding(console, number, finding)
    if report.findings:
        console.print()
        _say(console, ON_RESUME)


def as_json(report: Report) -> str:
    """The report as JSON, with "verdict"; values that are not finite are strings such as "nan"."""
    values = {**dataclasses.asdict(report), "verdict": report.verdict}
    for name, trend in report.figures.trends.items():
        values["figures"]["trends"][name]["growth"] = trend.growth
    return json.dumps(_valid(values), indent=2, allow_nan=False)


def _valid(value: Any) -> Any:
    match value:
        case dict():
            return {name: _valid(each) for name, each in value.items()}
        case list() | tuple():
            return [_valid(each) for each in value]
        case float() if not math.isfinite(value):
            return str(value)
    return value


def _progress(figures: Figures) -> str:
    of_planned = ""
    if figures.planned:
        share = figures.steps / figures.planned
        of_planned = f" of {figures.planned} ({share:.0%})"
    return f"{figures.experiment}: {figures.steps}{of_planned} steps done"


def _values(figures: Figures) -> "Table":
    from rich.text import Text

    train, validation = figures.train, figures.validation
    titles = [
        f"{name}\nstep {last.step}" if last else f"{name}\nnone yet"
        for name, last in (("training", train), ("validation", validation))
    ]
    table = _table("last values", *titles)
    for row in rows(train.values if train else {}, validation.values if validation else {}):
        table.add_row(*map(Text, row))  # a task may call a score "[b]", which is no markup
    return table


def _trends(figures: Figures) -> "Table":
    from rich.text import Text

    table = _table("trend", "first quarter", "last quarter", "change")
    for name, trend in figures.trends.items():
        label, form = words_of(name)
        table.add_row(Text(label), *_cells(trend, form))
    return table


def _cells(trend: Trend, form: str) -> tuple[str, str, str]:
    change = f"x {trend.growth:.2f}" if math.isfinite(trend.growth) else "-"
    return written(trend.early, form), written(trend.late, form), change


def _sentences(figures: Figures) -> list[str]:
    found = []
    if figures.best is not None:
        best = figures.best
        found.append(f"best validation loss: {figures.loss_of(best.value)}, after step {best.step}")
    found += _of_solves(figures)
    if figures.skipped or "skipped" in figures.late:
        found.append(f"updates skipped: {figures.skipped}")
    found.append(_of_checkpoints(figures))
    count = len(figures.events)
    rollbacks = f", {figures.rollbacks} of them rollbacks" if figures.rollbacks else ""
    newest = f"; the last {_EVENTS}:" if count > _EVENTS else ":" if count else ""
    found.append(f"events: {count}{rollbacks}{newest}")
    return found


def _of_solves(figures: Figures) -> list[str]:
    found, late = [], figures.late
    for direction in ("forward", "backward"):
        if f"{direction}_converged" in late:
            found.append(
                f"{direction} solves in the last quarter of training: "
                f"{late[f'{direction}_converged']:.1%} converged, "
                f"{late.get(f'{direction}_diverged', math.nan):.1%} diverged"
            )
    if figures.largest_radius is not None:
        largest = figures.largest_radius
        found.append(
            f"largest spectral radius of any sample: {largest.value:.2f}, at step {largest.step}"
        )
    return found


def _of_checkpoints(figures: Figures) -> str:
    if figures.checkpoints is None:
        steps = "not looked for"
    else:
        steps = ", ".join(map(str, figures.checkpoints)) or "none"
    found = f"checkpoints on disk: {steps}"
    if figures.state_hash is not None:
        last = figures.state_hash
        found += f"\nstate at the checkpoint of step {last.step}: {last.state_hash}"
    return found


def _print_finding(console: "Console", number: int, finding: Finding) -> None:
    _say(console, f"{number}. {finding.found[0].upper()}{finding.found[1:]}.")
    _say(console, f"It means: {finding.means}.", indent=3)
    _say(console, f"To do: {finding.remedy}.", indent=3)


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _say(console: "Console", sentence: str, *, indent: int = 0) -> None:
    """Prints text as it is: not as markup, and without colors for what looks like a number."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(sentence), (0, 0, 0, indent), expand=False))
