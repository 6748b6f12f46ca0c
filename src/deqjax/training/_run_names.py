"""Names of runs that no one named: `runs/NAME`, `runs/NAME-2`, `runs/NAME-3` and so on."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from deqjax.training._lock import is_locked
from deqjax.training._workdir import WorkdirError, holds_run

RUNS = Path("runs")
"""Where they lie, in the folder that a command is started in."""


def next_free(path: Path) -> Path:
    """The path itself if no run is there, else `path-2`, `path-3` and so on.

    The number is above that of every run, also of one that is about to begin: a deleted run's name
    is not used again, so that the highest number is always the newest run (see `newest_run`).

    Raises:
        WorkdirError: a folder beside it cannot be read.
    """
    taken = max(_numbers(path, lambda folder: holds_run(folder) or is_locked(folder)), default=0)
    return path if taken == 0 else path.with_name(f"{path.name}-{taken + 1}")


def newest_run(path: Path) -> Path:
    """The newest of the runs in `path`, `path-2`, `path-3` and so on.

    Raises:
        WorkdirError: if there is none, or a folder beside it cannot be read.
    """
    newest = max(_numbers(path, holds_run), default=0)
    if newest == 0:
        raise WorkdirError(f"There is no run to resume in {path}; drop --resume to start one.")
    return path if newest == 1 else path.with_name(f"{path.name}-{newest}")


def _numbers(path: Path, counts: Callable[[Path], bool]) -> Iterator[int]:
    """The numbers of the folders beside `path` that count; `path` itself is number 1."""
    try:
        if counts(path):
            yield 1
        if path.parent.is_dir():
            for entry in path.parent.iterdir():
                number = re.fullmatch(rf"{re.escape(path.name)}-([1-9]\d*)", entry.name)
                if number and int(number[1]) > 1 and counts(entry):
                    yield int(number[1])
    except OSError as error:
        raise WorkdirError(
            f"The runs beside {path} cannot be looked at ({error}); put their permissions right, "
            "or choose a --workdir."
        ) from error
