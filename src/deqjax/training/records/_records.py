"""What a run tells: to its records, to its progress display, and to the user."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from deqjax.training._workdir import Workdir
from deqjax.training.records._listener import as_listener
from deqjax.training.records._metrics import MetricsWriter
from deqjax.training.records._progress import progress_bar
from deqjax.training.records._reading import read_metrics


class Records:
    """The records of a run and its display; of several processes only the first has any.

    A context manager. That the display or the user cannot be spoken to becomes an event, once.

    Args:
        folder: of the run.
        first: whether this process tells anything.
        steps: of the whole run.
        resumed: the step that the run goes on from, or None for a new run.
        say: receives lines for the user.
    """

    def __init__(
        self,
        folder: Workdir,
        *,
        first: bool,
        steps: int,
        resumed: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._listener = folder, as_listener(say)
        self._writer = MetricsWriter(folder, resumed, say=self._listener) if first else None
        self._bar = progress_bar(steps, resumed or 0, quiet=not first)
        self._step, self._told_of_failure = resumed or 0, False

    def has(self, step: int, split: str) -> bool:
        """Whether there is a record of this split at this step."""
        return has_record(self._folder.metrics, step, split)

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show how far the run is."""
        self._step = step
        self._bar.update(step, metrics)
        self._tell_of_failure()

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the means over some training steps."""
        if self._writer is not None:
            self._writer.write(step, "train", metrics)

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record an evaluation."""
        if self._writer is not None:
            self._writer.write(step, "validation", metrics)
            self._bar.validated(step, metrics)

    def checkpoint(self, step: int, state_hash: str) -> None:
        """Record the hash of a state that is being saved."""
        if self._writer is not None:
            self._writer.write_state_hash(step, state_hash)

    def event(self, step: int, sentence: str) -> None:
        """Record what happened, and tell the user."""
        if self._writer is not None:
            self._writer.write_event(step, sentence)
            self._listener(f"step {step}: {sentence}")

    def rewind(self, step: int) -> None:
        """Drop what was recorded of later steps, which are about to be made again."""
        if self._writer is not None:
            self._writer.rewind(step)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        self._tell_of_failure()
        if self._writer is not None:
            self._writer.close()

    def _tell_of_failure(self) -> None:
        failure = self._listener.failure or self._bar.failure
        if failure is not None and not self._told_of_failure:
            self._told_of_failure = True
            self.event(
                self._step,
                f"what the run says cannot be written ({failure.strerror or failure}); it goes on, "
                "and its records are complete.",
            )


def has_record(file: Path, step: int, split: str) -> bool:
    """Whether a `metrics.jsonl` has a record of this split at this step."""
    return any((each["step"], each["split"]) == (step, split) for each in read_metrics(file))
