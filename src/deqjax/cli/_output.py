"""Where the commands write, and what happens when it cannot be written to."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast


class OutputError(OSError):
    """Standard output cannot be written to.

    Attributes:
        closed: whether it is a pipe whose reader has seen enough, as in ``| head -1``.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error.errno, error.strerror)
        self.closed = isinstance(error, BrokenPipeError)


class _Watched:
    """A stream that tells what happened to it from what happened to other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError as error:  # a name with what this terminal's language has not
            encoded = text.encode(error.encoding, "backslashreplace")
            return self.write(encoded.decode(error.encoding))
        except OSError as error:
            raise OutputError(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Unfailing(_Watched):
    """A stream for which it is no error that it cannot be written to; `failed` hears of it."""

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]) -> None:
        super().__init__(stream)
        self._failed = failed

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OutputError as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OutputError as error:
            self._failed(error)


@contextlib.contextmanager
def watched_output() -> Iterator[None]:
    """Raise an OutputError where standard output cannot be written to, at the end of it too."""
    if sys.stdout is None:  # closed before this process began: what is printed goes nowhere
        yield
        return
    with contextlib.redirect_stdout(cast(TextIO, _Watched(sys.stdout))):
        yield
        sys.stdout.flush()  # not at the exit of Python, which has no answer to a failure


@contextlib.contextmanager
def unfailing_output(failed: Callable[[OSError], None]) -> Iterator[None]:
    """Go on when standard output is a closed pipe or a full disk: a run is worth more than its log.

    What the run measures is in its folder as well.

    Args:
        failed: is told of each failure.
    """
    stream = sys.stdout
    if stream is None:
        yield
        return
    try:
        with contextlib.redirect_stdout(cast(TextIO, _Unfailing(stream, failed))):
            yield
    finally:
        try:
            stream.flush()
        except OSError:
            discard_output()


def tell(sentence: object) -> None:
    """Print a sentence to standard error, where it does not come between results.

    A terminal that is gone, or a closed pipe, is no error.
    """
    with contextlib.suppress(OSError):
        print(f"deqjax: {sentence}", file=sys.stderr, flush=True)


def discard_output() -> None:
    """Let what is still buffered go nowhere: Python would complain about it at its exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream of somebody else's has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
