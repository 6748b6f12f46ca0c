"""Ctrl-C that arrives where Python lets no exception out."""

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator
from typing import Any

_LATER = 0.05  # seconds, in which that place is left


@contextlib.contextmanager
def no_interrupt_is_lost() -> Iterator[None]:
    """Raise KeyboardInterrupt anew where Python prints it and goes on as if nothing had been.

    That happens in what the garbage collector calls, which is much: JAX has it clear caches.
    """
    earlier, main = sys.unraisablehook, threading.main_thread().ident

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            earlier(unraisable)
            return
        # not here: it would be lost in the same way
        again = threading.Timer(_LATER, _raise_in, [main])
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:  # else somebody calls it from theirs
            sys.unraisablehook = earlier


def _raise_in(thread: int) -> None:
    # a signal would count as a second Ctrl-C
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
    )
