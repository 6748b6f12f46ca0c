"""A second Ctrl-C while a command trains: the end of the process, at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SENTENCE = (
    b"\ndeqjax: interrupted twice: ended at once, without saving; a run goes on from its last "
    b"checkpoint.\n"
)
_SHOW_CURSOR = b"\x1b[?25h"  # which a live table hides
_LEAVE = b"\0"  # no signal has this number


@contextlib.contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """End this process with status 130 at the second Ctrl-C, wherever it is, with a sentence.

    The first one is left to a run that stops by itself, and is a KeyboardInterrupt elsewhere.
    Python's own handlers do not run while XLA compiles, and an exception in the midst of what
    follows may be lost or break the interpreter: hence a thread, which the system's part of the
    handler wakes.
    """
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    watcher = threading.Thread(target=_watch, args=(read,), name="second-interrupt", daemon=True)
    watcher.start()
    earlier = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        with _first_interrupt_raises():
            yield
    finally:
        signal.set_wakeup_fd(earlier)
        os.write(write, _LEAVE)
        watcher.join()
        os.close(read)
        os.close(write)


@contextlib.contextmanager
def _first_interrupt_raises() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first Ctrl-C alone: at the second, the thread may be late."""
    seen = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        # otherwise it is called by the handler of a run that stops by itself
        if seen == 1 and signal.getsignal(signal.SIGINT) is interrupt:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _watch(read: int) -> None:
    """Count the numbers of the signals that arrive."""
    interrupts = 0
    while (number := os.read(read, 1)) != _LEAVE:
        interrupts += number == bytes([signal.SIGINT])
        if interrupts == 2:
            _end()


def _end() -> None:
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)
    with contextlib.suppress(OSError):
        os.write(2, _SENTENCE)
    os._exit(130)
