"""Notices a process of a run that died or is stuck, and ends this one with a sentence."""

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

_ALIVE, _FAILED = "deqjax/alive/", "deqjax/failed/"
_INTERVAL = 1.0  # seconds between two signs of life
_LINGER = 2.0  # seconds in which the others can hear why this process ends


class Watchdog(threading.Thread):
    """Shows the others that this process lives and moves, and looks after them.

    Each process writes a counter and its place every second. One whose counter stands still is
    dead, or its whole machine is; one that stays at a place for too long is stuck. Those that only
    wait for it stay where they are as well: the one furthest behind is to blame. Time is counted in
    own signs of life: a pause of the whole machine is nobody's silence.

    Args:
        store: key-value store of `jax.distributed`.
        index: this process's number.
        count: how many there are.
        heartbeat: seconds without a sign of life after which a process counts as dead.
        deadline: seconds without progress after which a process counts as stuck.
    """

    def __init__(
        self, store: Any, index: int, count: int, heartbeat: float, deadline: float
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._store, self._index = store, index
        self._heartbeat, self._deadline = heartbeat, deadline
        self._moves, self._place = 0, "its start"
        self._ended = threading.Event()
        self._saying = threading.Lock()
        self._handler = explain_aborts(index, self._saying) if index else None
        self._beats = 0
        # of each process: what it showed last and since which beat; its moves and since when
        self._shown: dict[int, tuple[str, int]] = dict.fromkeys(range(count), ("", 0))
        self._moved: dict[int, tuple[int, str, int]] = dict.fromkeys(
            range(count), (0, self._place, 0)
        )

    def progress(self, place: str) -> None:
        """Note that this process came to a new place."""
        self._moves, self._place = self._moves + 1, place

    def stop(self) -> None:
        """End watching: from now on the others may go."""
        self._ended.set()

    def run(self) -> None:
        """Look after the others until `stop`."""
        threading.Thread(target=self._watch_the_store, daemon=True).start()
        while not self._ended.wait(_INTERVAL):
            try:
                self._store.key_value_set(
                    f"{_ALIVE}{self._index}",
                    f"{self._beats}|{self._moves}|{self._place}",
                    allow_overwrite=True,
                )
                failures = dict(self._store.key_value_dir_get(_FAILED))
                shown = dict(self._store.key_value_dir_get(_ALIVE))
            except Exception as error:  # whatever the store raises: it lives in process 0
                if not self._ended.is_set():
                    self._end(
                        f"process 0, which coordinates the run, is gone ({_line(error)})",
                        announce=False,
                    )
                return
            self._beats += 1
            self._judge(failures, shown)

    def _watch_the_store(self) -> None:
        """End this process when the store, which lives in process 0, gives no answer any more."""
        seen, silent = -1, 0
        while not self._ended.wait(_INTERVAL):
            silent = silent + 1 if self._beats == seen else 0
            seen = self._beats
            if silent * _INTERVAL > self._heartbeat:
                self._end(
                    f"process 0, which coordinates the run, gave no answer for "
                    f"{self._heartbeat:g} s",
                    announce=False,
                )

    def leave(self, error: BaseException) -> NoReturn:
        """Tell the others why this process ends, if it is to blame, and end it."""
        if _may_be_of_the_connection(error):
            # perhaps some other process is gone: its silence will soon tell which
            self._ended.wait(self._heartbeat + 3 * _INTERVAL)
        elif not isinstance(error, KeyboardInterrupt) and not _is_own(error):
            traceback.print_exception(error)  # a bug, for which a sentence is not enough
        if isinstance(error, KeyboardInterrupt):
            self._say_and_end("interrupted", status=130)
        text = _line(error) if _is_own(error) else f"{type(error).__name__}: {_line(error)}"
        self._say_and_end(text.removesuffix("."))

    def _judge(self, failures: dict[str, str], shown: dict[str, str]) -> None:
        now = self._beats
        for key, text in failures.items():
            failed = int(key.removeprefix(_FAILED))
            if failed != self._index:
                self._end(f"process {failed} ended with an error: {text}")
        for key, text in shown.items():
            number = int(key.removeprefix(_ALIVE))
            if text == self._shown[number][0]:
                continue
            self._shown[number] = (text, now)
            _, moves, place = text.split("|", 2)
            if int(moves) != self._moved[number][0]:
                self._moved[number] = (int(moves), place, now)
        for number, (_, since) in self._shown.items():
            if number != self._index and (now - since) * _INTERVAL > self._heartbeat:
                self._end(f"process {number} gave no sign of life for {self._heartbeat:g} s")
        most = self._deadline / _INTERVAL
        if any(now - since > most for _, _, since in self._moved.values()):
            behind = min(moves for moves, _, _ in self._moved.values())
            stuck = [n for n, (moves, _, _) in self._moved.items() if moves == behind]
            names = " and ".join(f"process {n}" for n in stuck)
            self._end(
                f"{names} made no progress for {self._deadline:g} s, stuck at "
                f"{self._moved[stuck[0]][1]}"
            )

    def _end(self, text: str, *, announce: bool = True) -> NoReturn:
        self._say_and_end(f"{text}; process {self._index} ends too", announce=announce)

    def _say_and_end(self, text: str, *, announce: bool = True, status: int = 1) -> NoReturn:
        """Say why first: once the others know, process 0 ends, and with it the runtime here."""
        self._ended.set()
        with self._saying:  # of two threads only the first says anything
            say(text)
            if announce:
                try:
                    self._store.key_value_set(f"{_FAILED}{self._index}", text, allow_overwrite=True)
                    time.sleep(_LINGER)  # in process 0 the store ends with it
                except Exception as unreachable:  # whatever the store raises, the end is the same
                    say(f"the others could not be told ({_line(unreachable)})")
            os._exit(status)


def explain_aborts(index: int, saying: threading.Lock) -> Any:
    """Let an abort of this process say what is behind it, and end it with status 1.

    It says nothing if some thread is ``saying`` something already.

    When process 0 is gone, the runtime's client in every other one aborts at once, from a thread
    of its own and without an exception; Python's own handlers of signals would never come to run.

    Returns:
        What must be kept alive as long as this shall hold.
    """
    line = (
        "deqjax: error: the runtime broke off, as it does when process 0, which coordinates the "
        f"run, is gone (see its message above); process {index} ends too.\n"
    ).encode()

    def end(number: int) -> None:
        del number
        if not saying.locked():
            os.write(2, line)
        os._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
    return handler


def say(text: str) -> None:
    """Print a sentence as an error."""
    print(f"deqjax: error: {text}.", file=sys.stderr, flush=True)


def end_with(text: str) -> NoReturn:
    """End this process with a sentence, at once.

    A plain exit would wait in the runtime's shutdown for processes that wait for this one.
    """
    say(text)
    os._exit(1)


def _may_be_of_the_connection(error: BaseException) -> bool:
    """Whether an error may say no more than that some other process is gone."""
    import jax

    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error)


def _is_own(error: BaseException) -> bool:
    """Whether an error is one of ours, whose sentence says all."""
    return type(error).__module__.startswith("deqjax.")


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:500]
