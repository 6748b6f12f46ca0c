"""A run's folder: what lies where in it, and the configuration that it was begun with."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

CONFIG = "config.json"
_TASK = "task.json"
_CHECKPOINTS = "checkpoints"
_ABSENT = "absent"


class WorkdirError(ValueError):
    """A folder cannot hold the run that is asked for; the message says why and the way out."""


@dataclass(frozen=True)
class Workdir:
    """The folder of one run, and the places in it.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def at(cls, path: Path | str) -> Self:
        """A run's folder as a user names it: `~` and `~user` are expanded.

        Raises:
            WorkdirError: no folder can have this name.
        """
        named = os.fspath(path)
        if not named:
            raise WorkdirError("The name of the run's folder is empty; name one, as runs/first.")
        try:
            expanded = Path(named).expanduser()
            os.path.abspath(expanded).encode()
            os.lstat(expanded)
        except (FileNotFoundError, NotADirectoryError):
            pass  # it is not there yet, or cannot be: who writes to it will say so
        except OSError as error:
            raise WorkdirError(
                f"The folder {named!r} cannot be used ({error.strerror}); choose another --workdir."
            ) from error
        except UnicodeEncodeError as error:  # what writes checkpoints takes UTF-8 alone
            raise WorkdirError(
                f"The folder {named!r} cannot be used (its path, as this system's language reads "
                "it, has bytes that are no characters); choose another --workdir, or set LC_ALL to "
                "C.UTF-8."
            ) from error
        except (RuntimeError, ValueError) as error:  # no such user; no name that a system can hold
            raise WorkdirError(
                f"The folder {named!r} cannot be used ({error}); choose another --workdir."
            ) from error
        return cls(expanded)

    @property
    def config(self) -> Path:
        """Experiment, config and versions, as JSON."""
        return self.path / CONFIG

    @property
    def task(self) -> Path:
        """The class of the task, and what it has kept of its data, as JSON."""
        return self.path / _TASK

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, one numbered folder a step."""
        return self.path / _CHECKPOINTS

    @property
    def quarantine(self) -> Path:
        """Folder of checkpoints that were found to be damaged."""
        return self.path / "quarantine"

    @property
    def profile(self) -> Path:
        """Folder of a profiler's traces."""
        return self.path / "profile"

    @property
    def compilation_cache(self) -> Path:
        """Folder of compiled programs, shared by all runs beside this one."""
        return self.path.parent / "compilation-cache"

    @property
    def metrics(self) -> Path:
        """One JSON record a line."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Folder of the TensorBoard event files."""
        return self.path / "events"

    @property
    def picture(self) -> Path:
        """The run in one picture."""
        return self.path / "run.png"


def write_config(
    workdir: Workdir, experiment: str, config: Mapping[str, Any], task: Mapping[str, Any]
) -> None:
    """Makes a folder that of a run.

    Args:
        workdir: the folder.
        experiment: its name.
        config: the configuration as JSON values.
        task: likewise its task's class, and what that has kept.

    Raises:
        WorkdirError: if it cannot be written to.
    """
    stored = {"experiment": experiment, "config": dict(config), "versions": _versions()}
    try:
        write_atomically(workdir.task, f"{json.dumps(dict(task))}\n".encode())
        write_atomically(workdir.config, f"{json.dumps(stored, indent=2)}\n".encode())
    except OSError as error:
        raise unwritable(workdir.path, error) from error


def read_config(path: Path | str) -> tuple[str, dict[str, Any]]:
    """The experiment's name and the config of the run in a folder.

    Raises:
        WorkdirError: if the folder holds no readable `config.json`.
    """
    file = Workdir.at(path).config
    try:
        found = read_json(file)
    except FileNotFoundError as error:
        raise WorkdirError(
            f"There is no run in {path} (no {CONFIG}); name the folder of a run."
        ) from error
    except OSError as error:
        raise WorkdirError(
            f"{file} cannot be read ({error.strerror}); name the folder of a run."
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON, or not even text
        raise WorkdirError(
            f"{file} is damaged ({error}); put it right, or choose another folder."
        ) from error
    match found:
        case {"experiment": str(experiment), "config": dict(config)}:
            return experiment, config
    raise WorkdirError(
        f"{file} is not a run's config (it lacks an experiment's name or a config); put it right, "
        "or choose another folder."
    )


def read_json(file: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        OSError: it cannot be read.
        ValueError, RecursionError: it is no JSON, or has half of a character in a text, which
            nothing can print.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    json.dumps(found, ensure_ascii=False).encode()
    return found


def holds_run(path: Path) -> bool:
    """Whether the folder holds a run, be it one without a checkpoint so far."""
    return Workdir(path).config.exists() or bool(saved_steps(Workdir(path).checkpoints))


def refuse_another_version(workdir: Workdir) -> None:
    """Raise a WorkdirError for a run from before runs kept their task."""
    if not workdir.task.exists():
        raise WorkdirError(
            f"the run in {workdir.path} was written by another version of deqjax (it has no "
            f"{_TASK}); use the version of deqjax that wrote it, or train anew."
        )


def unwritable(path: Path, error: OSError) -> WorkdirError:
    """What is said of a folder that nothing can be written to."""
    return WorkdirError(
        f"The folder {path} cannot be written to ({error.strerror}); choose another --workdir."
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one move: a reader, or a crash, meets the old content or the new."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def saved_steps(checkpoints: Path) -> list[int]:
    """The steps that have a folder among a run's checkpoints, whatever its condition.

    Raises:
        WorkdirError: the folder of checkpoints cannot be read.
    """
    try:
        names = [each.name for each in checkpoints.iterdir()] if checkpoints.is_dir() else []
    except OSError as error:
        raise WorkdirError(
            f"The folder {checkpoints} cannot be read ({error.strerror}); put its permissions "
            "right, or choose another --workdir."
        ) from error
    return sorted(int(name) for name in names if name.isdecimal())


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Dotted name -> `old -> new` of every field that differs."""
    # Through JSON and back, so that tuples are compared as the lists they are stored as.
    before, after = dict(_flatten(old)), dict(_flatten(json.loads(json.dumps(dict(new)))))
    return {
        name: f"{before.get(name, _ABSENT)} -> {after.get(name, _ABSENT)}"
        for name in before | after
        if before.get(name, _ABSENT) != after.get(name, _ABSENT)
    }


def _flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping) and tree:
        for name, branch in tree.items():
            yield from _flatten(branch, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, json.dumps(tree)


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("deqjax", "jax", "flax")}
    return {"python": platform.python_version()} | packages
