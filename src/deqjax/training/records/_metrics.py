"""What a run measures and what happens to it: a JSON line and TensorBoard scalars a record."""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from deqjax.training._workdir import Workdir
from deqjax.training.records import _event_file
from deqjax.training.records._appended_file import AppendedFile
from deqjax.training.records._reading import TEXTS, MetricsError, parse, unreadable

Split = Literal["train", "validation"]
_RESERVED = ("step", "split", *TEXTS)


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
            which are history. None for a new run, which drops all. Damaged records are dropped,
            and told of.
        say: receives sentences for the user.

    Raises:
        MetricsError: if the file is there and cannot be read.
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
            raise unreadable(self._lines.path, error) from error
        records, left_out = parse(content, self._lines.path) if step is not None else ([], "")
        if left_out:
            self._tell(left_out)
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


def _line(record: Mapping[str, Any]) -> bytes:
    def valid(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: valid(value) for name, value in record.items()}).encode() + b"\n"
