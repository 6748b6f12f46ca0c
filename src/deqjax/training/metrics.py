"""What a run measures: a JSON line and TensorBoard scalars a record, and the progress shown."""

import json
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from deqjax.training.workdir import Workdir, write_atomically

if TYPE_CHECKING:
    from rich.console import Console

Split = Literal["train", "validation"]
_RESERVED = ("step", "split")
# Metric -> its short name in the progress display.
_SHOWN = {"loss": "loss", "forward_steps": "steps", "forward_residual": "residual"}


class MetricsError(ValueError):
    """A record of metrics cannot be written or read."""


class MetricsWriter:
    """Appends records to `metrics.jsonl` and to TensorBoard event files; a context manager.

    JSON knows no NaN and no infinity: they are written as the strings "nan", "inf" and "-inf",
    which `read_metrics` turns back into floats. TensorBoard gets the finite values only.

    Args:
        workdir: the run's folder.
        resume_step: the step of the checkpoint the run goes on from: records of later steps,
            written after that checkpoint and about to be made again, are dropped. None for a run
            from step 0, which drops all.

    Raises:
        MetricsError: if a record already there is damaged.
    """

    def __init__(self, workdir: Workdir, resume_step: int | None) -> None:
        from tensorboardX import SummaryWriter

        last = -1 if resume_step is None else resume_step
        kept = [record for record in read_metrics(workdir.metrics) if record["step"] <= last]
        write_atomically(workdir.metrics, "".join(map(_line, kept)).encode())
        self._lines = workdir.metrics.open("a", encoding="utf-8")
        # TensorBoard hides the events of earlier files from the purge step on.
        self._events = SummaryWriter(str(workdir.events), purge_step=last + 1, flush_secs=10)

    def write(self, step: int, split: Split, metrics: Mapping[str, float]) -> None:
        """Writes one record; it is on disk for every reader when this returns.

        Args:
            step: number of finished training steps.
            split: what the metrics were measured on.
            metrics: scalars by name, as floats or as 0-d arrays.

        Raises:
            MetricsError: if a metric is called "step" or "split".
        """
        for name in _RESERVED:
            if name in metrics:
                raise MetricsError(f"A metric cannot be called {name!r}; give it another name.")
        values = {name: float(value) for name, value in metrics.items()}
        self._lines.write(_line({"step": int(step), "split": split, **values}))
        self._lines.flush()
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Closes both files."""
        self._lines.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, oldest first; none if there is no such file yet.

    A last line that was cut off, by a crash or because a run is just writing it, is left out.

    Returns:
        One dict a record: "step" (int), "split" (str) and the metrics (floats).

    Raises:
        MetricsError: if any other line is not a record.
    """
    file = Path(path)
    content = file.read_bytes() if file.exists() else b""
    lines = content.splitlines()
    complete = len(lines) if content.endswith(b"\n") else len(lines) - 1
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            values = {name: float(found[name]) for name in found if name not in _RESERVED}
            records.append({"step": int(found["step"]), "split": str(found["split"]), **values})
        except (ValueError, TypeError, LookupError) as error:
            if number <= complete:
                raise MetricsError(
                    f"Line {number} of {file} is not a record of metrics ({line[:40]!r}); "
                    "remove that line."
                ) from error
    return records


class ProgressBar:
    """How far a run is, with its newest metrics; a context manager (see `progress_bar`)."""

    def __init__(self, total: int, start: int, console: "Console", every: float) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeRemaining

        self._total, self._start, self._every = total, start, every
        self._console = console
        self._begun, self._printed = time.monotonic(), -math.inf
        # A live display redraws itself with control characters, which would fill a log file.
        self._live: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            text = TextColumn("{task.fields[metrics]}", markup=False)
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemaining(), text)
            self._live = Progress(*columns, console=console)
            self._task = self._live.add_task("", total=total, completed=start, metrics="")

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the number of finished steps and the loss, solver steps and residual at hand."""
        shown = [
            f"{short} {float(metrics[name]):.4g}"
            for name, short in _SHOWN.items()
            if name in metrics
        ]
        if self._live is not None:
            self._live.update(self._task, completed=step, metrics="  ".join(shown))
            return
        now = time.monotonic()
        if now - self._printed >= self._every or step >= self._total:
            self._printed = now
            line = [f"step {step}/{self._total}", *shown, *self._remaining(step, now)]
            print("  ".join(line), file=self._console.file, flush=True)

    def _remaining(self, step: int, now: float) -> list[str]:
        if not self._start < step < self._total:
            return []
        seconds = (now - self._begun) * (self._total - step) / (step - self._start)
        return [f"{timedelta(seconds=round(seconds))} left"]

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()


def progress_bar(
    total: int, start: int = 0, *, console: "Console | None" = None, every: float = 30.0
) -> ProgressBar:
    """A bar with step, time left and metrics; plain lines where there is no terminal.

    Args:
        total: number of training steps of the whole run.
        start: number of steps that are done already.
        console: where to show it, by default standard output.
        every: seconds between two plain lines; the last step is always shown.
    """
    from rich.console import Console

    return ProgressBar(total, start, console or Console(), every)


def _line(record: Mapping[str, Any]) -> str:
    def valid(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: valid(value) for name, value in record.items()}) + "\n"
