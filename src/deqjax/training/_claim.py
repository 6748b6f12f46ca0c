"""How a run gets its folder: whether it may have it, and that it alone has it."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from deqjax.training._lock import Lock, refuse_if_in_use
from deqjax.training._run_names import next_free
from deqjax.training._workdir import (
    CONFIG,
    Workdir,
    WorkdirError,
    differences,
    holds_run,
    read_config,
    refuse_another_version,
    saved_steps,
    unwritable,
    write_config,
)


class Request(NamedTuple):
    """A run that asks for a folder.

    Attributes:
        experiment: the experiment's name.
        config: the whole config as JSON-like values.
        resume: whether the run that is there goes on.
        may_change: dotted names of fields (with all below them) that may differ on resuming.
    """

    experiment: str
    config: Mapping[str, Any]
    resume: bool = False
    may_change: Collection[str] = ()


class Claim:
    """A folder that this process has for a run, from now until `release`; a context manager.

    A folder that was made for a run which then never began is gone again at the end.

    Args:
        workdir: the folder; it and its parents are created.
        request: the run.
        say: is told if a former owner must be waited for.

    Attributes:
        workdir: the folder.
        changes: what differs from the run that goes on, `old -> new` by dotted name.
        token: by which other processes of the run know that they see the same folder.

    Raises:
        WorkdirError: another process has the folder, it cannot be written to, or the run may not
            begin or go on there.
    """

    def __init__(
        self, workdir: Workdir, request: Request, say: Callable[[str], None] = print
    ) -> None:
        look(workdir, request)  # before anything is written
        self.workdir, self._request = workdir, request
        self._lock = Lock(workdir.path, say)
        self._task: Mapping[str, Any] = {}  # known when the run begins
        self._made: list[Path] = []  # the outermost first
        self._lost: Path | None = None  # what was missing lately
        try:
            self._make(workdir.path)
            self._lock.acquire()
            self.changes = _check(workdir, request)  # once more: now nobody changes it
            self._make(workdir.checkpoints)
            with tempfile.TemporaryFile(dir=workdir.checkpoints):
                pass  # permissions and mount options do not tell; only writing does
        except OSError as error:
            self.release()
            raise unwritable(workdir.path, error) from error
        except BaseException:
            self.release()
            raise
        self.token = self._lock.token

    def begin(self, task: Mapping[str, Any]) -> None:
        """Make the folder that of the run.

        Args:
            task: its class and what it keeps, as JSON values.

        Raises:
            WorkdirError: it cannot be written to.
        """
        self._task = task
        write_config(self.workdir, self._request.experiment, self._request.config, task)
        self._made = []

    def check(self) -> None:
        """Raise a WorkdirError if another process has taken the folder over."""
        self._lock.check()

    def renew(self) -> str | None:
        """Make what somebody has removed of the folder anew: the run needs it to be resumed.

        Returns:
            A sentence for the user, once; None if nothing is missing.
        """
        lost = _lost(self.workdir)
        again, self._lost = lost == self._lost, lost
        if lost is None:
            return None
        try:
            self.workdir.checkpoints.mkdir(parents=True, exist_ok=True)
            write_config(self.workdir, self._request.experiment, self._request.config, self._task)
        except (OSError, WorkdirError) as error:
            if again:
                return None
            reason = error.strerror if isinstance(error, OSError) else error
            return (
                f"{lost} was removed or renamed while the run trains, and cannot be made anew "
                f"({reason})."
            )
        self._lost = None
        return (
            f"{lost} was removed or renamed while the run trains; it is made anew, and holds what "
            "comes from now on."
        )

    def release(self) -> None:
        """Let go of the folder."""
        self._remove_made()  # what is in it while nobody else can have it
        self._lock.release()
        self._remove_made()

    def _make(self, folder: Path) -> None:
        for each in (*reversed(folder.parents), folder):
            if not each.is_dir():
                with contextlib.suppress(FileExistsError):  # made by another run beside this one
                    each.mkdir()
                    self._made.append(each)

    def _remove_made(self) -> None:
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def claim_free(path: Path, request: Request, say: Callable[[str], None] = print) -> Claim:
    """Claim the first free folder of `path`, `path-2`, ...; see `next_free`.

    Of several processes that start at the same moment each gets another one.

    Raises:
        WorkdirError: the folder cannot be written to.
    """
    while True:
        free = next_free(path)
        try:
            return Claim(Workdir.at(free), request, say)
        except WorkdirError:
            if next_free(path) == free:  # not because another one was faster
                raise


def look(workdir: Workdir, request: Request) -> None:
    """Say whether a run may start or go on in a folder; nothing is written.

    A folder whose run stopped before its first checkpoint may be started over, and resumed too:
    from step 0.

    Args:
        workdir: the folder.
        request: the run.

    Raises:
        WorkdirError: the folder cannot be read or written to, another process has it, it holds
            another experiment's run, holds a run although none shall go on, holds none although
            one shall, or holds one with another config.
    """
    with _readable(workdir.path):
        refuse_if_in_use(workdir.path)
    _check(workdir, request)


def _check(workdir: Workdir, request: Request) -> dict[str, str]:
    """What differs from the run that goes on, `old -> new` by dotted name; see `look`."""
    path = workdir.path
    with _readable(path):
        if holds_run(path):
            return _check_run(workdir, request)
        nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if request.resume:
        raise WorkdirError(
            f"There is no run to resume in {path}; drop --resume to start one, or choose another "
            "--workdir."
        )
    if not nearest.is_dir():
        raise unwritable(path, NotADirectoryError(errno.ENOTDIR, "Not a directory"))
    return {}


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkdirError(
            f"The folder {path} cannot be read ({error.strerror}); put its permissions right, or "
            "choose another --workdir."
        ) from error


def _check_run(workdir: Workdir, request: Request) -> dict[str, str]:
    path = workdir.path
    if not workdir.config.exists():
        raise WorkdirError(
            f"{path} holds checkpoints but no {CONFIG}; put that back, or choose another --workdir."
        )
    there, old = read_config(path)
    if there != request.experiment:
        raise WorkdirError(
            f"{path} holds a run of {there}, not of {request.experiment}; choose another --workdir."
        )
    if not request.resume:
        if saved_steps(workdir.checkpoints):
            raise WorkdirError(
                f"{path} already holds a run of {there}; add --resume to continue it, or "
                "choose another --workdir."
            )
        return {}
    refuse_another_version(workdir)
    changes = differences(old, request.config)
    refused = [
        (name, change)
        for name, change in changes.items()
        if not any(name == free or name.startswith(f"{free}.") for free in request.may_change)
    ]
    if refused:
        listed = ", ".join(f"{name}: {change}" for name, change in refused)
        own = " ".join(f"--{name} {change.partition(' -> ')[0]}" for name, change in refused)
        raise WorkdirError(
            f"The run in {path} was started with another config ({listed}); resume it with its own "
            f"({own}), or choose another --workdir."
        )
    return changes


def _lost(workdir: Workdir) -> Path | None:
    """What is gone of a run's folder: all of it, a part that a resumed run needs, or nothing."""
    gone = [place for place in (workdir.config, workdir.checkpoints) if _is_gone(place)]
    # records and the save under way may have made the folder anew before anybody looks
    if workdir.config in gone and not saved_steps(workdir.checkpoints):
        return workdir.path
    return next(iter(gone), None)


def _is_gone(place: Path) -> bool:
    try:
        os.lstat(place)
    except FileNotFoundError:
        return True
    except OSError:  # who writes to it will say what is wrong
        return False
    return False
