"""One run, one owner: the lock on a run's folder.

The lock is a numbered file that names its owner and that the owner touches every few seconds. No
advisory lock of the system is relied upon: over shared file systems they hold on one machine only,
or not at all. A file is created by one process alone, everywhere; whoever takes a lock over
creates the next number instead of replacing the file that it has judged, so that of two that judge
it at the same moment only one can have it, and none can take away a lock that it has not seen.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deqjax.training._owner import Owner, named
from deqjax.training._workdir import WorkdirError

BEAT = 5.0
"""Seconds between two signs of life of an owner."""

SILENCE = 60.0
"""Seconds without one after which an owner that cannot be looked up counts as dead."""

_POLL = 0.1  # seconds between two looks at a lock whose owner may be dead


class InUseError(WorkdirError):
    """Another process has the folder."""


class _Sign(NamedTuple):
    """A lock as it was seen: its owner, if it is whole, and when that touched it last."""

    owner: Owner | None
    touched: int


class Lock:
    """The lock on a folder, held from `acquire` until `release`.

    Args:
        folder: of the run.
        say: is told if another owner must be waited for, to see whether it lives.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self._folder, self._say = folder, say
        self._places = _places(folder)
        self._owner, self._number = Owner.this(), 0
        self._successor: str | None = None
        self._tried = time.time()  # to give a sign of life
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._touch_on, name="lock", daemon=True)

    @property
    def token(self) -> str:
        """By which other processes of the run know that they see the same folder."""
        return self._owner.token

    def acquire(self) -> None:
        """Lock the folder, which is created if absent.

        An owner on this machine is looked up. Of another one signs of life are waited for, two
        intervals at least and until it has given none for a minute.

        Raises:
            InUseError: another process has it.
            OSError: it cannot be written to.
        """
        while not self._number:
            self._places.mkdir(parents=True, exist_ok=True)
            there = _numbers(self._places)
            for number in there:
                self._refuse_if_owned(number)
            # Taken in the meantime, or the folder removed by one that let go: look again.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                self._create(max(there, default=0) + 1)
        try:
            # one that has judged an older state of affairs may have come in between
            for number in set(_numbers(self._places)) - {*there, self._number}:
                self._refuse_if_owned(number)
        except InUseError:
            self.release()
            raise
        for number in there:
            self._place(number).unlink(missing_ok=True)
        self._thread.start()

    def check(self) -> None:
        """Raise a WorkdirError if another process has taken the folder over.

        That happens to a process that was suspended, or cut off from the folder, for a minute.
        """
        if time.time() - self._tried > SILENCE / 2 and not self._successor:
            with contextlib.suppress(OSError):
                self._touch()
        if self._successor:
            raise WorkdirError(
                f"{self._folder} was taken over by {self._successor}, because this process gave no "
                f"sign of life for {SILENCE:g} s; it ends, and leaves the folder to that one."
            )

    def release(self) -> None:
        """Let go of the folder."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join(BEAT)  # longer only if the file system hangs
        with contextlib.suppress(OSError):
            found = _look(self._place(self._number))
            if found is not None and found.owner == self._owner:
                self._place(self._number).unlink()
            self._places.rmdir()

    def _place(self, number: int) -> Path:
        return self._places / str(number)

    def _create(self, number: int) -> None:
        place = self._place(number)
        with place.open("xb", buffering=0) as file:
            try:
                file.write(self._owner.written())
                os.fsync(file.fileno())
            except OSError:
                place.unlink(missing_ok=True)
                raise
        self._number = number

    def _refuse_if_owned(self, number: int) -> None:
        """Return once it is certain that the owner of a lock is gone."""
        first = sign = _look(self._place(number))
        begun = time.monotonic()
        silent: float | None = None  # seconds that the owner was silent before
        while first is not None and sign is not None:
            lives = None if sign.owner is None else sign.owner.lives()
            if lives is False:
                return
            if lives or sign.touched != first.touched:
                raise _in_use(self._folder, sign.owner)
            if silent is None:
                silent = self._now() - sign.touched / 1e9
                self._tell_of_waiting(sign.owner, silent)
            waited = time.monotonic() - begun
            if waited > 2 * BEAT and silent + waited > SILENCE:
                return
            time.sleep(_POLL)
            sign = _look(self._place(number))

    def _tell_of_waiting(self, owner: Owner | None, silent: float) -> None:
        longest = max(2 * BEAT, SILENCE - silent)
        self._say(
            f"{self._folder} was in use by {named(owner)}: waiting up to {longest:.0f} s for a "
            "sign of life"
        )

    def _now(self) -> float:
        """The time by the clock of the file system, which may be another machine's."""
        with tempfile.TemporaryFile(dir=self._places) as file:
            return os.fstat(file.fileno()).st_mtime

    def _touch_on(self) -> None:
        while not (self._released.wait(BEAT) or self._successor):
            with contextlib.suppress(OSError):  # tried again; others give this one a minute
                self._touch()

    def _touch(self) -> None:
        """Give a sign of life, unless the lock is another process's by now."""
        self._tried = time.time()
        later = [n for n in _numbers(self._places) if n > self._number]
        found = _look(self._place(max(later, default=self._number)))
        if found is not None and found.owner != self._owner:
            self._successor = named(found.owner)
        elif found is None:  # deleted, perhaps with the whole folder
            self._places.mkdir(exist_ok=True)
            self._create(self._number)
        else:
            os.utime(self._place(self._number))


def refuse_if_in_use(folder: Path) -> None:
    """Raise an InUseError if a process is known to have the folder, without waiting for one."""
    for number in _numbers(_places(folder)):
        sign = _look(_places(folder) / str(number))
        if sign is not None and sign.owner is not None and sign.owner.lives():
            raise _in_use(folder, sign.owner)


def sees_lock(folder: Path, token: str) -> bool:
    """Whether the folder is, as this process sees it, the one that a lock was made in."""
    places = _places(folder)
    signs = [_look(places / str(number)) for number in _numbers(places)]
    return any(sign and sign.owner and sign.owner.token == token for sign in signs)


def is_locked(folder: Path) -> bool:
    """Whether a folder has a lock, be its owner alive or not."""
    return bool(_numbers(_places(folder)))


def _places(folder: Path) -> Path:
    return folder / "lock"


def _in_use(folder: Path, owner: Owner | None) -> InUseError:
    return InUseError(
        f"{folder} is in use by {named(owner)}; wait until that run has ended, or choose another "
        "--workdir."
    )


def _numbers(places: Path) -> list[int]:
    try:
        return sorted(int(entry.name) for entry in places.iterdir() if entry.name.isdecimal())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _look(place: Path) -> _Sign | None:
    """A lock as it is now, None if there is none; opened, because only that asks a file server."""
    try:
        with place.open("rb") as file:
            return _Sign(Owner.read(file.read()), os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
        return None
