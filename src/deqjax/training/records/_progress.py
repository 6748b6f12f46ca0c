"""How far a run is and what it measures, while it goes on: a live table, or plain lines."""

import contextlib
import importlib
import io
import math
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from deqjax._records import loss_unit
from deqjax._scores import scores, words_of_score
from deqjax.training.records._quantities import Row, rows

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

# Metric -> its short name in a plain line, behind the loss.
_SHOWN = {"forward_steps": "steps", "forward_residual": "residual"}
_REDRAW = 0.25  # seconds between two drawings of the live table
_RECENT = 600.0  # seconds whose steps tell the time that is left
_GAP = 2  # characters between two columns
_CELL = 100  # characters that a notebook has room for
_CODE = "<pre style='line-height:normal'>{code}</pre>"


class ProgressBar:
    """How far a run is, with its newest metrics; a context manager (see `progress_bar`).

    This one shows nothing. A display that cannot be written to, such as a log on a full disk or a
    terminal that is gone, is no reason to end a run: nothing here raises an OSError.

    Attributes:
        failure: why it could not be written to for the first time, or None.
    """

    failure: OSError | None = None

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the number of finished steps and the newest metrics of training, {} for none."""

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows what was measured on validation data after a step."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    @contextlib.contextmanager
    def _noting_failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error


def progress_bar(
    total: int,
    start: int = 0,
    *,
    console: "Console | None" = None,
    every: float = 30.0,
    quiet: bool = False,
) -> ProgressBar:
    """A bar with step, time left and a table of metrics, on a terminal or in a notebook.

    Where neither is, such as in a log file, it is plain lines.

    Args:
        total: number of training steps of the whole run.
        start: number of steps that are done already.
        console: where to show it, by default standard output.
        every: seconds between two plain lines of training; the last step's and those of validation
            are always shown.
        quiet: show nothing, as every process of a run but the first shall.
    """
    from rich.console import Console

    if quiet:
        return ProgressBar()
    shown = console or Console()
    if shown.is_jupyter and _is_cell(shown.file):
        return _LiveCell(total, start)
    # A live display redraws itself with control characters, which would fill a log file, and
    # draws with characters that only Unicode has.
    redraws = shown.is_terminal and not shown.is_dumb_terminal
    if redraws and not shown.options.ascii_only:
        return _LiveTable(total, start, shown)
    return _PlainLines(total, start, shown, every)


class _PlainLines(ProgressBar):
    def __init__(self, total: int, start: int, console: "Console", every: float) -> None:
        self._total, self._start, self._every = total, start, every
        self._console = console
        self._begun, self._printed = math.nan, -math.inf

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if math.isnan(self._begun):  # the first step has been compiled, which tells of no other
            self._begun, self._start = now, step
        if now - self._printed >= self._every or step >= self._total:
            self._printed = now
            self._print(step, *_short(metrics), *self._remaining(step, now))

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        self._print(step, "validation", *_short(metrics))

    def _print(self, step: int, *parts: str) -> None:
        with self._noting_failures():
            line = "  ".join([f"step {step}/{self._total}", *parts])
            print(line, file=self._console.file, flush=True)

    def _remaining(self, step: int, now: float) -> list[str]:
        if not self._start < step < self._total:
            return []
        seconds = (now - self._begun) * (self._total - step) / (step - self._start)
        return [f"{timedelta(seconds=round(seconds))} left"]


class _LiveTable(ProgressBar):
    """Redraws itself now and then when it is updated, without a thread of its own."""

    def __init__(self, total: int, start: int, console: "Console") -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress
        from rich.progress import TimeRemainingColumn as TimeRemaining

        self._training: Mapping[str, float] = {}
        self._validation: Mapping[str, float] = {}
        self._validated_at: int | None = None
        self._drawn = -math.inf
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemaining())
        self._bar = Progress(*columns, console=console, speed_estimate_period=_RECENT)
        self._task = self._bar.add_task("", total=total, completed=start)
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._drawing)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        self._training = metrics
        self._bar.update(self._task, completed=step)
        if time.monotonic() - self._drawn >= _REDRAW:
            self._draw()

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        self._validation, self._validated_at = metrics, step
        self._draw()

    def __enter__(self) -> Self:
        with self._noting_failures():
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._noting_failures():
            self._live.stop()  # draws a last time

    def _draw(self) -> None:
        with self._noting_failures():
            self._live.refresh()
        self._drawn = time.monotonic()

    def _drawing(self) -> "Group":
        from rich.console import Group

        if not self._training and not self._validation:
            return Group(self._bar)
        room = self._bar.console.width
        candidates = list(self._candidates())
        chosen = next((each for each in candidates if each.width <= room), candidates[-1])
        return Group(self._bar, chosen.drawn())

    def _candidates(self) -> "Iterator[_Table]":
        """The same table with less and less in it."""
        both = rows(self._training, self._validation)
        if self._validation:
            yield _Table(both, ("training", f"validation, step {self._validated_at}"))
            yield _Table(both, ("training", "validation"))
            yield _Table([_shortened(row) for row in both], ("training", "validation"))
        alone = rows(self._training, {})
        yield _Table(alone, ("training",))
        yield _Table([_shortened(row) for row in alone], ("training",))


class _LiveCell(_LiveTable):
    """The same below a notebook's cell, which keeps the last drawing."""

    def __init__(self, total: int, start: int) -> None:
        super().__init__(total, start, _page())
        self._cell: Any = None

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._draw()

    def _draw(self) -> None:
        page = _page()
        page.print(self._drawing())
        text = page.export_text(clear=False, styles=False)
        html = page.export_html(inline_styles=True, code_format=_CODE)
        content = {"text/plain": text, "text/html": html}
        if self._cell is None:
            # rich's own display in notebooks needs a package of widgets
            notebook = importlib.import_module("IPython.display")
            self._cell = notebook.display(content, raw=True, display_id=True)
        else:
            self._cell.update(content, raw=True)
        self._drawn = time.monotonic()


def _page() -> "Console":
    """What a notebook has room for."""
    from rich.console import Console

    return Console(file=io.StringIO(), width=_CELL, record=True, force_jupyter=False, _environ={})


class _Table(NamedTuple):
    rows: list[Row]
    titles: tuple[str, ...]

    @property
    def width(self) -> int:
        """Characters that it takes if nothing is cut off."""
        lines = [("", *self.titles), *self.rows]
        columns = range(1 + len(self.titles))
        return sum(max(len(line[column]) for line in lines) + _GAP for column in columns) - _GAP

    def drawn(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
        table.add_column("", no_wrap=True)
        for title in self.titles:
            table.add_column(title, no_wrap=True, justify="right")
        for row in self.rows:
            # as it is: a task may call a score "[b]", which would be markup
            table.add_row(*map(Text, row[: len(table.columns)]))
        return table


def _shortened(row: Row) -> Row:
    """Without the unit and without what tells its two values apart."""
    return row._replace(label=row.label.split(", ")[0])


def _short(metrics: Mapping[str, float]) -> list[str]:
    name, unit = loss_unit([metrics])
    loss = [f"loss {float(metrics[name]):.4g} {unit}".rstrip()] if name in metrics else []
    # bits say enough; beside a loss without a unit stands the task's first score
    first = [] if unit else [f"{s} {_value(s, metrics)}" for s in _own_scores(metrics)[:1]]
    others = [f"{word} {float(metrics[n]):.4g}" for n, word in _SHOWN.items() if n in metrics]
    return loss + first + others


def _own_scores(metrics: Mapping[str, float]) -> list[str]:
    """The scores that are no baseline's."""
    return [name for name in scores(metrics) if not name.endswith(("loss", "bits_per_byte"))]


def _value(score: str, metrics: Mapping[str, float]) -> str:
    return format(float(metrics[score]), words_of_score(score)[1])


def _is_cell(file: object) -> bool:
    """Whether what is written appears below a notebook's cell, and is not caught on its way."""
    return type(file).__module__.startswith("ipykernel.")
