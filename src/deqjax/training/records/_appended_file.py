"""A file that grows by whole pieces and outlives a full disk."""

import contextlib
import os
from pathlib import Path

from deqjax.training._workdir import write_atomically


class AppendedFile:
    """Appends pieces to a file, each of them whole or not at all.

    What cannot be written stays in memory, in order, and is tried again at the next `flush`. A
    write that failed half-way leaves no trace: the file is cut back to its last good length before
    anything else is written. The file is opened anew each time, so that a disk that was remounted
    or a folder that was put back is found again.

    Args:
        path: the file; it and its folder are created by the first `flush`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[bytes] = []
        self._replacement: bytes | None = None  # what the whole file shall hold before them
        self._good: int | None = None  # length to cut back to, after a write that failed

    @property
    def waiting(self) -> int:
        """Number of pieces that are not on disk."""
        return len(self._waiting)

    def append(self, piece: bytes) -> None:
        """Puts a piece at the end; `flush` writes it."""
        self._waiting.append(piece)

    def replace(self, content: bytes) -> None:
        """Lets the file hold this and nothing else, in one move at the next `flush`."""
        self._replacement, self._waiting, self._good = content, [], None

    def content(self) -> bytes:
        """What the file will hold once everything is written.

        Raises:
            OSError: if the file is there and cannot be read.
        """
        there = self._replacement
        if there is None:
            there = self.path.read_bytes() if self.path.exists() else b""
        return there[: self._good] + b"".join(self._waiting)

    def flush(self, *, sync: bool = False) -> OSError | None:
        """Tries to write all that waits.

        Args:
            sync: also wait until the disk has it, so that a power cut cannot take it away.

        Returns:
            None, or why it could not be written and still waits.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._replacement is not None:
                write_atomically(self.path, self._replacement)
                self._replacement = None
            self._write_waiting(sync)
        except OSError as error:
            with contextlib.suppress(OSError):  # else the next flush cuts it off
                self._cut_back()
            return error
        return None

    def _write_waiting(self, sync: bool) -> None:
        self._cut_back()
        with self.path.open("ab", buffering=0) as file:
            self._good = file.seek(0, os.SEEK_END)
            left = memoryview(b"".join(self._waiting))
            while left:  # a disk that is nearly full takes a part
                left = left[file.write(left) :]
            if sync:
                os.fsync(file.fileno())
        # only now: an error, or Ctrl-C, at any line above makes the next flush do it all again
        self._good, self._waiting = None, []

    def _cut_back(self) -> None:
        if self._good is not None and self.path.exists():
            # never longer: the file may have been replaced in the meantime
            os.truncate(self.path, min(self._good, self.path.stat().st_size))
        self._good = None
