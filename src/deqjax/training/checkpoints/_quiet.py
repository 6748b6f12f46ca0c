"""What Orbax and TensorStore print of a failed save, although they raise it as well, is dropped."""

import logging
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

_ORBAX = f"{os.sep}orbax{os.sep}"
_lock = threading.Lock()
_silences: list["Silence"] = []  # those that hold
_hooks: list[tuple[Any, Any]] = []  # of exceptions that nobody can catch: ours, and the one before


class Silence:
    """Drops the messages from `begin` until `end`; any number may hold at once."""

    def __init__(self) -> None:
        self._filter, self._of_asyncio = _NotFromOrbax(), _NotOfASave()

    def begin(self) -> None:
        """From here on the failures reach us as exceptions alone."""
        logging.getLogger("absl").addFilter(self._filter)
        logging.getLogger("asyncio").addFilter(self._of_asyncio)
        with _lock:
            if not _silences:
                earlier = sys.unraisablehook
                _hooks[:] = [(_hook(earlier), earlier)]
                sys.unraisablehook = _hooks[0][0]
            _silences.append(self)

    def end(self, *, failed: bool = False) -> None:
        """All is printed again.

        Args:
            failed: whether a save has. Its futures are told of when they are collected, maybe at
                the process's end: they alone stay dropped.
        """
        logging.getLogger("absl").removeFilter(self._filter)
        if not failed:
            logging.getLogger("asyncio").removeFilter(self._of_asyncio)
        with _lock:
            _silences.remove(self)
            own, earlier = _hooks[0]
            if not _silences and sys.unraisablehook is own:  # else somebody calls it from theirs
                sys.unraisablehook = earlier


class _NotFromOrbax(logging.Filter):
    """Drops what Orbax logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record comes from elsewhere."""
        return _ORBAX not in record.pathname


class _NotOfASave(logging.Filter):
    """Drops what asyncio logs of the other parts of a save, after the first one has failed it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record tells of anything else."""
        error = record.exc_info[1] if record.exc_info else None
        told = f"{record.getMessage()} {error}"
        return "tensorstore_spec" not in told and _ORBAX not in told


def _hook(earlier: Callable[[Any], object]) -> Callable[[Any], None]:
    def hook(unraisable: Any) -> None:
        if not _is_late_answer(unraisable.exc_value, unraisable.exc_traceback):
            earlier(unraisable)

    return hook


def _is_late_answer(error: BaseException | None, trace: TracebackType | None) -> bool:
    """Whether a write of TensorStore has ended after its save has failed.

    The first write that fails ends the save and closes its event loop. Each other one then calls
    the loop from a thread of TensorStore's own, which prints what that raises.
    """
    return (
        isinstance(error, RuntimeError)
        and str(error) == "Event loop is closed"
        and trace is not None
        and trace.tb_frame.f_code.co_name == "call_soon_threadsafe"  # nobody of Python's called it
    )
