"""A run's folder: what lies where in it, and whether a run may start or go on there."""

import json
import os
import platform
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

_CONFIG = "config.json"
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

    @property
    def config(self) -> Path:
        """Experiment, config and versions, as JSON."""
        return self.path / _CONFIG

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


def prepare_workdir(
    path: Path | str,
    *,
    experiment: str,
    config: Mapping[str, Any],
    resume: bool,
    may_change: Collection[str] = (),
) -> Workdir:
    """Makes the folder ready for a run, or says why it is not.

    Nothing is written before every check has passed. A folder whose run stopped before its first
    checkpoint may be started over, and resumed too: from step 0.

    Args:
        path: the run's folder; it and its parents are created.
        experiment: the experiment's name.
        config: the whole config as JSON-like values.
        resume: whether the run that is there goes on.
        may_change: dotted names of fields (with all below them) that may differ on resuming.

    Raises:
        WorkdirError: if the folder cannot be written to, holds another experiment's run, holds a
            run although `resume` is false, holds none although it is true, or holds one with
            another config.
    """
    workdir = Workdir(Path(path))
    if holds_run(workdir.path):
        _check_run(workdir, experiment, config, resume, may_change)
    elif resume:
        raise WorkdirError(
            f"There is no run to resume in {path}; drop --resume to start one, or choose another "
            "--workdir."
        )
    text = json.dumps(
        {"experiment": experiment, "config": dict(config), "versions": _versions()}, indent=2
    )
    try:
        workdir.checkpoints.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir.checkpoints):
            pass  # permissions and mount options do not tell; only writing does
        write_atomically(workdir.config, f"{text}\n".encode())
    except OSError as error:
        raise WorkdirError(
            f"The folder {path} cannot be written to ({error.strerror}); choose another --workdir."
        ) from error
    return workdir


def read_config(path: Path | str) -> tuple[str, dict[str, Any]]:
    """The experiment's name and the config of the run in a folder.

    Raises:
        WorkdirError: if the folder holds no readable `config.json`.
    """
    file = Workdir(Path(path)).config
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorkdirError(
            f"There is no run in {path} (no {_CONFIG}); name the folder of a run."
        ) from error
    except OSError as error:
        raise WorkdirError(
            f"{file} cannot be read ({error.strerror}); name the folder of a run."
        ) from error
    except ValueError as error:  # no JSON, or not even text
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


def holds_run(path: Path) -> bool:
    """Whether the folder holds a run, be it one without a checkpoint so far."""
    return Workdir(path).config.exists() or bool(saved_steps(Workdir(path).checkpoints))


def next_free(path: Path) -> Path:
    """The path itself if no run is there, else `path-2`, `path-3` and so on.

    The number is above that of every run: a deleted run's name is not used again, so that the
    highest number is always the newest run (see `newest_run`).
    """
    taken = max(_numbers(path), default=0)
    return path if taken == 0 else path.with_name(f"{path.name}-{taken + 1}")


def newest_run(path: Path) -> Path:
    """The newest of the runs in `path`, `path-2`, `path-3` and so on.

    Raises:
        WorkdirError: if there is none.
    """
    newest = max(_numbers(path), default=0)
    if newest == 0:
        raise WorkdirError(f"There is no run to resume in {path}; drop --resume to start one.")
    return path if newest == 1 else path.with_name(f"{path.name}-{newest}")


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


def _check_run(
    workdir: Workdir,
    experiment: str,
    config: Mapping[str, Any],
    resume: bool,
    may_change: Collection[str],
) -> None:
    path = workdir.path
    if not workdir.config.exists():
        raise WorkdirError(
            f"{path} holds checkpoints but no {_CONFIG}; put that back, or choose another "
            "--workdir."
        )
    there, old = read_config(path)
    if there != experiment:
        raise WorkdirError(
            f"{path} holds a run of {there}, not of {experiment}; choose another --workdir."
        )
    if not resume:
        if bool(saved_steps(Workdir(path).checkpoints)):
            raise WorkdirError(
                f"{path} already holds a run of {experiment}; add --resume to continue it, or "
                "choose another --workdir."
            )
        return
    changes = {
        name: change
        for name, change in differences(old, config).items()
        if not any(name == free or name.startswith(f"{free}.") for free in may_change)
    }
    if changes:
        listed = ", ".join(f"{name}: {change}" for name, change in changes.items())
        raise WorkdirError(
            f"The run in {path} was started with another config ({listed}); resume it with its "
            "own, or choose another --workdir."
        )


def saved_steps(checkpoints: Path) -> list[int]:
    """The steps that have a folder among a run's checkpoints, whatever its condition."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(entry.name) for entry in checkpoints.iterdir() if entry.name.isdigit())


def _numbers(path: Path) -> Iterator[int]:
    """The numbers of the runs beside `path`; `path` itself is number 1."""
    if holds_run(path):
        yield 1
    if path.parent.is_dir():
        for entry in path.parent.iterdir():
            number = re.fullmatch(rf"{re.escape(path.name)}-([1-9]\d*)", entry.name)
            if number and int(number[1]) > 1 and holds_run(entry):
                yield int(number[1])


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
