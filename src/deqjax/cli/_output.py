"""Where the commands write, and what happens when nobody reads it."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Unfailing:
    """A stream for which it is no error that it cannot be written to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def unfailing_output() -> Iterator[None]:
    """Go on when standard output is a closed pipe or a full disk: a run is worth more than its log.

    What the run measures is in its folder as well.
    """
    with contextlib.redirect_stdout(cast(TextIO, _Unfailing(sys.stdout))):
        yield


def console() -> Any:
    """A rich console that meets a closed pipe as `print` does: with a BrokenPipeError."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich itself would end the process, with status 1

    return Plain()
