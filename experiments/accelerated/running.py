"""Parts in processes of their own: started, listened to, and killed when their time is up."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from children import Child

BETWEEN = 0.3  # seconds between two looks


class Running:
    """A part's process.

    Args:
        child: the process.
        file: where it tells what it finds.
        until: when its time is up, of `time.monotonic`.
    """

    def __init__(self, child: Child, file: Path, until: float) -> None:
        self._child, self._file = child, file
        self._until, self._over = until, False

    def look(self) -> bool:
        """Whether it has ended; it is killed if its time is up."""
        if self._child.status is None and time.monotonic() > self._until:
            self._child.kill()
            self._over = True
        return self._child.status is not None

    @property
    def told(self) -> dict[str, Any]:
        """What it has told so far."""
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    @property
    def entry(self) -> dict[str, Any]:
        """Outcome, the reason if it is not finished, seconds and figures."""
        figures = self.told
        figures.pop("machine", None)
        found: dict[str, Any] = {"outcome": "running", "seconds": round(self._child.seconds, 1)}
        reasons = {name: figures.pop(name) for name in ("skipped", "failed") if name in figures}
        if reasons:
            ((found["outcome"], found["reason"]),) = reasons.items()
        elif self._over:
            found |= {"outcome": "stopped", "reason": "its time was over"}
        elif self._child.status == 0:
            found["outcome"] = "finished"
        elif self._child.status is not None:
            last = " / ".join(self._child.output().strip().splitlines()[-5:])
            found |= {"outcome": "failed", "reason": f"status {self._child.status}: {last}"}
        return found | {"figures": figures}


@contextlib.contextmanager
def started(
    command: Sequence[str], file: Path, until: float, environment: Mapping[str, str]
) -> Iterator[Running]:
    """Start a part that tells into a file; it is killed on leaving."""
    with Child(command, file.with_suffix(".log"), environment) as child:
        yield Running(child, file, until)


def until_all_end(
    running: Mapping[str, Running], note: Callable[[str, Running], None], save: Callable[[], None]
) -> None:
    """Look at parts until each has ended: note what they have told, and save it."""
    left = dict(running)
    while left:
        for name, part in list(left.items()):
            if part.look():
                del left[name]
            note(name, part)
        save()
        time.sleep(BETWEEN if left else 0)
