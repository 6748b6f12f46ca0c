"""The runs in a folder, one line each."""

import datetime
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deqjax.training._lock import InUseError, refuse_if_in_use
from deqjax.training._workdir import Workdir, WorkdirError, holds_run, read_config, saved_steps
from deqjax.training.records import MetricsError, read_metrics
from deqjax.training.report._figures import Figures, measure
from deqjax.training.report._grid import Grid

if TYPE_CHECKING:
    from rich.console import Console


class ListedRun(NamedTuple):
    """What a line says of a run.

    Attributes:
        folder: of the run.
        figures: what its records add up to; None if they cannot be read.
        changed: when it was last written to.
        problem: a sentence that says why it, or which of its records, cannot be read, or "".
        running: whether a process is known to have it: of other hosts none is.
    """

    folder: Path
    figures: Figures | None
    changed: datetime.datetime
    problem: str
    running: bool

    @property
    def finished(self) -> bool:
        """Whether its last step has been evaluated."""
        found = self.figures
        if found is None or found.validation is None or found.planned is None:
            return False
        return found.validation.step >= found.planned


class RunList(Sequence[ListedRun]):
    """Runs, the newest last; printed and in a notebook it is a table.

    Args:
        folder: that they lie in.
        runs: one by one.
    """

    def __init__(self, folder: Path, runs: Sequence[ListedRun]) -> None:
        self.folder, self._runs = folder, tuple(runs)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def print(self, console: "Console") -> None:
        """Print the table, and a sentence for each run that cannot be read, or not all of it."""
        if not self._runs:
            console.print(repr(self), markup=False, highlight=False, soft_wrap=True)
            return
        self._grid().print(console)
        for run in self._runs:
            if run.problem:
                console.print(run.problem, markup=False, highlight=False, soft_wrap=True)

    def __repr__(self) -> str:
        return str(self._grid()) if self._runs else f"there is no run in {self.folder}."

    def _repr_html_(self) -> str:
        return self._grid().html()

    def _grid(self) -> Grid:
        rows = [_row(run, self.folder) for run in self._runs]
        return Grid(
            f"runs in {self.folder}", ("run", "steps", "last loss", "last written", ""), rows
        )


def list_runs(folder: Path | str = "runs") -> RunList:
    """The runs in a folder and in the folders inside of it, in the order they were last written to.

    Nothing is built or compiled: the runs may be under way, or of an older version.

    Args:
        folder: where to look.

    Raises:
        WorkdirError: there is no such folder.
    """
    top = existing(folder)
    if not top.is_dir():
        raise WorkdirError(f"there is no folder {top}; name the one that holds the runs.")
    return RunList(top, sorted(map(_listed, run_folders(top)), key=lambda run: run.changed))


def existing(folder: Path | str) -> Path:
    """The folder, or file, of this name.

    Raises:
        WorkdirError: there is none, or it cannot be looked at.
    """
    path = Workdir.at(folder).path
    try:
        if path.exists():
            return path
    except OSError as error:
        raise WorkdirError(
            f"the folder {path} cannot be read ({error.strerror}); put its permissions right."
        ) from error
    raise WorkdirError(f"there is no folder {path}; name the one that holds the runs.")


def run_folders(folder: Path) -> Iterator[Path]:
    """The folders of the runs in a folder: itself, or those inside of it.

    One that cannot be looked into is among them: whoever reads its run says why.
    """
    try:
        itself = holds_run(folder)
        inside = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    except (OSError, WorkdirError):
        itself = True
    if itself:
        yield folder
        return
    for path in inside:
        if Path(path) != Workdir(folder / "any").compilation_cache:
            yield from run_folders(Path(path))


def _listed(folder: Path) -> ListedRun:
    places = Workdir(folder)
    times = [time for file in (places.metrics, places.config) if (time := _written(file))]
    changed = datetime.datetime.fromtimestamp(max(times, default=_written(folder)))
    left_out: list[str] = []
    try:
        config = read_config(folder)[1]
        records = read_metrics(places.metrics, say=left_out.append)
        figures = measure(records, config, steps_on_disk(places))
    except (WorkdirError, MetricsError) as error:
        return ListedRun(folder, None, changed, str(error), _running(folder))
    return ListedRun(folder, figures, changed, "".join(left_out), _running(folder))


def steps_on_disk(workdir: Workdir) -> list[int] | None:
    """The steps of a run's checkpoints; None if they cannot be looked at."""
    try:
        return saved_steps(workdir.checkpoints)
    except WorkdirError:
        return None


def _written(place: Path) -> float:
    """When it was last written to; 0 if nobody can tell."""
    try:
        return place.stat().st_mtime
    except OSError:
        return 0.0


def _running(folder: Path) -> bool:
    try:
        refuse_if_in_use(folder)
    except InUseError:
        return True
    except OSError:  # nobody can tell
        return False
    return False


def _row(run: ListedRun, top: Path) -> tuple[str, ...]:
    name = str(run.folder.relative_to(top)) if run.folder != top else run.folder.name
    changed = f"{run.changed:%Y-%m-%d %H:%M}"
    found = run.figures
    if found is None:
        return (name, "", "", changed, "cannot be read")
    loss = found.validation.values.get(found.loss) if found.validation else None
    told = "" if loss is None else found.loss_of(loss)
    state = "running" if run.running else "finished" if run.finished else "not finished"
    return (name, progress(found), told, changed, state)


def progress(figures: Figures) -> str:
    """Steps done, and of how many if that is not all."""
    if not figures.planned or figures.steps >= figures.planned:
        return str(figures.steps)
    return f"{figures.steps} of {figures.planned}"
