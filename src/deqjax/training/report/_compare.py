"""Several runs side by side: what differs between them, and what came of it."""

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from deqjax._records import Record
from deqjax._scores import scores
from deqjax.training._workdir import (
    Workdir,
    WorkdirError,
    differences,
    read_config,
    write_atomically,
)
from deqjax.training.records import read_metrics, words_of, written
from deqjax.training.report._figures import Figures, measure
from deqjax.training.report._finding import Options
from deqjax.training.report._folders import existing, progress, run_folders, steps_on_disk
from deqjax.training.report._grid import Grid
from deqjax.training.report._picture import as_it_is

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

MOST_OPTIONS = 6
"""Options that differ which have a column; the names of more follow below."""

SOLVES = ("forward_steps", "forward_residual", "spectral_radius")
"""Metrics of solves that have a column behind the scores and a panel of the picture, where a run
has them."""


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        name: what tells its folder from the others'.
        folder: of the run.
        config: as it is stored.
        records: of [`deqjax.training.read_metrics`][].
        figures: what the records add up to.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    records: tuple[Record, ...]
    figures: Figures

    @property
    def seconds_a_step(self) -> float | None:
        """Seconds of a training step, a mean over the last quarter of the run."""
        rate = self.figures.late.get("steps_per_second")
        return 1 / rate if rate else None


Column: TypeAlias = tuple[str, Callable[[ComparedRun], str]]


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Runs side by side; printed and in a notebook it is a table.

    Attributes:
        runs: in the order in which they were named.
    """

    runs: tuple[ComparedRun, ...]

    @property
    def options(self) -> dict[str, tuple[Any, ...]]:
        """What differs between the configurations: option -> its value in each run."""
        configs = [run.config for run in self.runs]
        names = dict.fromkeys(name for other in configs for name in differences(configs[0], other))
        names.pop("name", None)
        return {name: tuple(Options(config).get(name) for config in configs) for name in names}

    def figure(self) -> "Figure":
        """The runs in one picture: loss, solver steps, residual and spectral radius."""
        from deqjax.plot import training_comparison  # matplotlib is slow to import

        measured = {name for run in self.runs for record in run.records for name in record}
        return training_comparison(
            {as_it_is(run.name): run.records for run in self.runs},
            metrics=("loss", *(name for name in SOLVES if name in measured)),
        )

    def save_picture(self, file: Path | str | None = None) -> Path:
        """Write the picture, by default into the folder that the runs share, and return its path.

        Args:
            file: PNG file, instead of ``comparison.png`` there.

        Raises:
            WorkdirError: it cannot be written.
        """
        shared = os.path.commonpath([run.folder.absolute().parent for run in self.runs])
        path = Path(os.path.relpath(shared)) / "comparison.png" if file is None else Path(file)
        content = io.BytesIO()
        self.figure().savefig(content, format="png", pil_kwargs={"optimize": True})
        try:
            write_atomically(path, content.getvalue())
        except OSError as error:
            raise WorkdirError(
                f"{path} cannot be written ({error.strerror or error}); name another file with "
                "--picture."
            ) from error
        return path

    def print(self, console: "Console") -> None:
        """Print the table, and the names of further options that differ."""
        self._grid().print(console)
        more = list(self.options)[MOST_OPTIONS:]
        if more:
            sentence = f"{len(more)} more options differ: {', '.join(more)}"
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def __repr__(self) -> str:
        return str(self._grid())

    def _repr_html_(self) -> str:
        return self._grid().html()

    def _grid(self) -> Grid:
        columns = list(self._columns())
        rows = [[text(run) for _, text in columns] for run in self.runs]
        return Grid("runs compared", [title for title, _ in columns], rows, turns=True)

    def _columns(self) -> Iterator[Column]:
        yield "run", lambda run: run.name
        for option in list(self.options)[:MOST_OPTIONS]:
            yield option, functools.partial(_option, name=option)
        yield "steps", lambda run: progress(run.figures)
        figures = [run.figures for run in self.runs]
        units = {each.unit for each in figures if each.train or each.validation}
        unit = f", {next(iter(units))}" if len(units) == 1 and any(units) else ""
        yield f"last loss{unit}", lambda run: _last_loss(run, with_unit=not unit)
        yield f"best loss{unit}", lambda run: _best_loss(run, with_unit=not unit)
        measured = dict.fromkeys(name for run in self.runs for name in _last(run))
        # where all compare the same one it has its columns
        losses = {each.loss for each in figures}
        loss = losses.pop() if len(losses) == 1 else "loss"
        for metric in (*scores(measured, loss), *SOLVES):
            if metric in measured:
                label, form = words_of(metric)
                yield label, functools.partial(_score, name=metric, form=form)
        if any(run.seconds_a_step is not None for run in self.runs):
            yield "time a step", _time


def compare_runs(*folders: Path | str, say: Callable[[str], None] | None = None) -> Comparison:
    """Compare runs, finished or under way, by what they have recorded.

    Nothing is built or compiled. Of a folder that holds several runs, all of them are compared.

    Args:
        folders: of the runs.
        say: is told of damaged records, which are left out.

    Raises:
        WorkdirError: a folder does not exist, or there is no run in any of them.
        MetricsError: the records of a run cannot be read.
    """
    found: dict[Path, None] = {}
    for folder in map(existing, folders):
        if folder.is_dir():  # `runs/*` names files, too
            found |= dict.fromkeys(run_folders(folder))
    if not found:
        named = ", ".join(map(str, folders)) or "no folder"
        raise WorkdirError(f"there is no run to compare in {named}; name the folders of runs.")
    names = _names(list(found))
    return Comparison(
        tuple(_compared(name, path, say) for name, path in zip(names, found, strict=True))
    )


def _compared(name: str, folder: Path, say: Callable[[str], None] | None) -> ComparedRun:
    places = Workdir(folder)
    config, records = read_config(folder)[1], tuple(read_metrics(places.metrics, say=say))
    figures = measure(records, config, steps_on_disk(places))
    return ComparedRun(name, folder, config, records, figures)


def _names(folders: list[Path]) -> list[str]:
    """The folders from where they part."""
    shared = os.path.commonpath([folder.absolute().parent for folder in folders])
    return [os.path.relpath(folder.absolute(), shared) for folder in folders]


def _option(run: ComparedRun, name: str) -> str:
    value = Options(run.config).get(name, "")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _last(run: ComparedRun) -> Mapping[str, float]:
    return run.figures.validation.values if run.figures.validation else {}


def _last_loss(run: ComparedRun, *, with_unit: bool) -> str:
    value = _last(run).get(run.figures.loss)
    return "" if value is None else _loss(value, run, with_unit)


def _best_loss(run: ComparedRun, *, with_unit: bool) -> str:
    best = run.figures.best
    return "" if best is None else _loss(best.value, run, with_unit)


def _loss(value: float, run: ComparedRun, with_unit: bool) -> str:
    return run.figures.loss_of(value) if with_unit else written(value, ".4f")


def _score(run: ComparedRun, name: str, form: str) -> str:
    value = _last(run).get(name)
    return "" if value is None else written(value, form)


def _time(run: ComparedRun) -> str:
    seconds = run.seconds_a_step
    if seconds is None:
        return ""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
