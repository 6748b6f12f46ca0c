"""What a run measures and what happens to it: a JSON line and TensorBoard scalars a record."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from deqjax.training._workdir import Workdir
from deqjax.training.records import _event_file
from deqjax.training.records._appended_file import AppendedFile

Split = Literal["train", "validation"]
_TEXTS = ("state_hash", "event")  # the only values of a record that are no numbers
_RESERVED = ("step", "split", *_TEXTS)
_MEASUREMENT = re.compile(r".*_per_second|data_wait|.*_memory_gib")


class MetricsError(ValueError):
    """A record of metrics cannot be written or read."""


class MetricsWriter:
    """Appends records to `metrics.jsonl` and to TensorBoard event files; a context manager.

    JSON knows no NaN and no infinity: they are written as the strings "nan", "inf" and "-inf",
    which `read_metrics` turns back into floats. TensorBoard gets the finite scalars only.

    A file that cannot be written, as on a full disk, ends no run: its records are kept in memory
    and tried again at each later write and at the close. `say` hears of it when it begins, when
    it is over, and at the close if records are lost.

    Args:
        workdir: the run's folder.
        resume_step: the step of the checkpoint the run goes on from: records of later steps,
            written after that checkpoint and about to be made again, are dropped, but for events,
            which are history. None for a new run, which drops all.
        say: receives sentences for the user.

    Raises:
        MetricsError: if a record already there is damaged, or the file cannot be read.
    """

    def __init__(
        self, workdir: Workdir, resume_step: int | None, say: Callable[[str], None] = print
    ) -> None:
        self._say, self._failing = say, False
        self._lines = AppendedFile(workdir.metrics)
        self._events = _event_file.new_event_file(workdir.events)
        self._drop_after(resume_step)
        self._flush()

    def write(self, step: int, split: Split, metrics: Mapping[str, float]) -> None:
        """Writes one record of measurements; every reader sees it when this returns.

        Args:
            step: number of finished training steps.
            split: what the metrics were measured on.
            metrics: scalars by name, as floats or as 0-d arrays.

        Raises:
            MetricsError: if a metric is called "step", "split", "event" or "state_hash".
        """
        for name in _RESERVED:
            if name in metrics:
                raise MetricsError(f"A metric cannot be called {name!r}; give it another name.")
        values = {name: float(value) for name, value in metrics.items()}
        self._append({"step": int(step), "split": split, **values})
        tagged = {f"{split}/{name}": value for name, value in values.items()}
        self._events.append(_event_file.scalars(step, tagged))
        self._flush()

    def write_event(self, step: int, text: str) -> None:
        """Writes what happened, in one sentence; a rollback says "rolled back".

        Args:
            step: number of finished training steps.
            text: the sentence.
        """
        self._append({"step": int(step), "split": "event", "event": text})
        self._flush()

    def write_state_hash(self, step: int, state_hash: str) -> None:
        """Writes the hash of the state that a checkpoint holds, and sees all records to the disk.

        Args:
            step: the checkpoint's step.
            state_hash: in hexadecimal digits.
        """
        self._append({"step": int(step), "split": "checkpoint", "state_hash": state_hash})
        self._flush(sync=True)

    def rewind(self, step: int) -> None:
        """Drops the records after a step but for events: the run was rolled back to it.

        Args:
            step: of the checkpoint that the run goes on from.

        Raises:
            MetricsError: if the records cannot be read.
        """
        self._drop_after(step)
        self._flush()

    def close(self) -> None:
        """Tries a last time to write what is still in memory, and says how much is lost."""
        error = self._flush(sync=True)
        lost = self._lines.waiting
        if error is not None:
            path = self._lines.path if lost else self._events.path
            kind = "records" if lost else "records for TensorBoard"
            self._tell(
                f"{lost or self._events.waiting} {kind} are lost: {path} could not be written to "
                f"({error.strerror or error})."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        self._lines.append(_line(record))

    def _drop_after(self, step: int | None) -> None:
        try:
            content = self._lines.content()
        except OSError as error:
            raise _unreadable(self._lines.path, error) from error
        records = _parse(content, self._lines.path) if step is not None else []
        kept = [r for r in records if r["split"] == "event" or r["step"] <= (step or 0)]
        wanted = b"".join(map(_line, kept))
        if wanted != content or not content:
            self._lines.replace(wanted)
        # TensorBoard hides the scalars of earlier files from the purge step on.
        self._events.append(_event_file.purge(0 if step is None else step + 1))

    def _flush(self, *, sync: bool = False) -> OSError | None:
        """Writes what can be written; tells when a period of failures begins and ends."""
        files: tuple[AppendedFile, ...] = (self._lines, self._events)
        failed = [(f.path, e) for f in files if (e := f.flush(sync=sync)) is not None]
        if failed and not self._failing:
            path, error = failed[0]
            self._tell(
                f"{path} cannot be written to ({error.strerror or error}); records are kept in "
                "memory and tried again at every later one."
            )
        if self._failing and not failed:
            self._tell(f"{self._lines.path} can be written to again; no record is missing.")
        self._failing = bool(failed)
        return failed[0][1] if failed else None

    def _tell(self, sentence: str) -> None:
        with contextlib.suppress(OSError):  # a log on the same full disk
            self._say(sentence)


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, oldest first; none if there is no such file yet.

    A last line that was cut off, by a crash or because a run is just writing it, is left out.

    Returns:
        One dict a record: "step" (int), "split" (str: "train", "validation", "checkpoint" or
        "event") and the metrics (floats), "state_hash" (str) or "event" (str).

    Raises:
        MetricsError: if any other line is not a record, or the file cannot be read.
    """
    file = Path(path)
    try:
        content = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise _unreadable(file, error) from error
    return _parse(content, file)


def comparable(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records as two equal runs must both write them.

    Leaves out what measures the machine (names that end in "_per_second" or "_memory_gib", and
    "data_wait") and the events, since a run that was interrupted has other ones.

    Args:
        records: of `read_metrics`.
    """
    return [
        {name: value for name, value in record.items() if not _MEASUREMENT.fullmatch(name)}
        for record in records
        if record["split"] != "event"
    ]


def _parse(content: bytes, file: Path) -> list[dict[str, Any]]:
    lines = content.splitlines()
    complete = len(lines) if content.endswith(b"\n") else len(lines) - 1
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_record(json.loads(line)))
        except (ValueError, TypeError, LookupError) as error:
            if number <= complete:
                raise MetricsError(
                    f"Line {number} of {file} is not a record of metrics ({line[:40]!r}); "
                    "remove that line."
                ) from error
    return records


def _record(found: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"step": int(found["step"]), "split": str(found["split"])}
    if values["split"] == "event" and "event" not in found:
        raise LookupError("an event without its sentence")
    for name, value in found.items():
        if name in _TEXTS:
            values[name] = str(value)
        elif name not in values:
            values[name] = float(value)
    return values


def _unreadable(path: Path, error: OSError) -> MetricsError:
    return MetricsError(
        f"{path} cannot be read ({error.strerror or error}); put its permissions right, or move "
        "it away."
    )


def _line(record: Mapping[str, Any]) -> bytes:
    def valid(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: valid(value) for name, value in record.items()}).encode() + b"\n"
