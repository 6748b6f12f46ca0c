"""Programs that a script starts, watches and ends: none outlives it, and no wait is endless."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

import deqjax

SOURCE = Path(deqjax.__file__).parents[1]
FAST_COMPILER = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
SPOILED = Path(__file__).with_name("spoiled_run.py")


def _spawned(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
    """A process that heeds Ctrl-C, also where this one, a shell's background job, ignores it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return subprocess.Popen(*arguments, **options)
    finally:
        if before is signal.SIG_IGN:
            signal.signal(signal.SIGINT, before)


class Child:
    """A program in a process group of its own, with its output in a file; a context manager.

    On leaving, the whole group is killed.

    Args:
        command: program and arguments.
        log: file for its output, both streams.
        environment: variables beside this process's own.
        folder: in which it runs; by default this process's own.

    Attributes:
        log: file of its output.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        self._started, self._ended = time.monotonic(), 0.0
        with log.open("wb") as file:
            self._process = _spawned(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # the same package as here, wherever it runs
                env={**os.environ, "PYTHONPATH": str(SOURCE), **(environment or {})},
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the program itself."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, minus the signal's number if one killed it; None while it runs."""
        status = self._process.poll()
        if status is not None and not self._ended:
            self._ended = time.monotonic()
        return status

    @property
    def ended(self) -> float:
        """When its end was noticed, of `time.monotonic`; 0 while it runs."""
        return self._ended

    @property
    def seconds(self) -> float:
        """From its start until its end, or until now."""
        return (self._ended or time.monotonic()) - self._started

    def send(self, number: signal.Signals) -> None:
        """Signal the program itself, once, and nothing that it started."""
        if self.status is None:
            os.kill(self.pid, number)

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """Kill it and all that it started, and wait until it is gone."""
        if self.status is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(timeout=30)
        assert self.status is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def wait_until(
    true: Callable[[], bool], seconds: float, *, between: float = 0.1, or_end_of: Sequence = ()
) -> bool:
    """Wait until something is true, one of some children has ended, or the time is up.

    Returns:
        Whether it became true.
    """
    until = time.monotonic() + seconds
    while not true():
        ended = [child for child in or_end_of if child.status is not None]
        if ended or time.monotonic() > until:
            return true()
        time.sleep(between)
    return True


def command_line(*arguments: str, fault: str | None = None) -> list[str]:
    """The command line ``deqjax`` with arguments, or the one with something wrong with it."""
    if fault is not None:
        return [sys.executable, str(SPOILED), fault, *arguments]
    return [sys.executable, "-m", "deqjax", *arguments]


def end_cleanly_when_terminated() -> None:
    """Let SIGTERM unwind this script as Ctrl-C does, so that it kills what it started."""

    def leave(number: int, frame: object) -> None:
        del frame
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def wide_console() -> Console:
    """Wide enough for the tables also where the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=140)
