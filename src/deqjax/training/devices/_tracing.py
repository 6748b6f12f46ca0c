"""A profiler's trace of some steps of a run."""

from pathlib import Path
from typing import Any

import jax

_SKIPPED, _TRACED = 2, 5  # steps: those that compile, and those that are traced


class Trace:
    """Traces a few steps, from the third of a run (or of its rest) on.

    Args:
        folder: for TensorBoard's profiler and Perfetto; None traces nothing.
        first: the step that the run goes on after.
    """

    def __init__(self, folder: Path | None, first: int) -> None:
        self._folder = folder
        self._begin = first + _SKIPPED + 1
        self._end = self._begin + _TRACED - 1
        self._running = False

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self._folder is not None and step == self._begin and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """To be called after each step, with anything that it computed."""
        if self._running and step == self._end:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """End a trace that the run did not live to see the end of."""
        if self._running:
            self._running, self._folder = False, None  # once is enough
            jax.profiler.stop_trace()
