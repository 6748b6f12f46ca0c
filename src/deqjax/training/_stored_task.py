"""What a run remembers of its task beside the configuration: its class, and what it has kept."""

import contextlib
import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqjax.training._experiments import import_file, import_from
from deqjax.training._options import ConfigError
from deqjax.training._sentences import ExperimentError, translated
from deqjax.training._task import Task
from deqjax.training._workdir import Workdir, WorkdirError, read_json, refuse_another_version


def stored_task(task: Task, opened: Task) -> dict[str, Any]:
    """Where the class of a configuration's task is defined, and what the opened task keeps.

    Raises:
        ConfigError: that cannot be stored.
    """
    kind = type(task)
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):  # defined in a notebook
        file = None
    kept = opened.keeps()
    try:
        json.dumps(kept)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"what keeps() of {kind.__name__} returns cannot be stored with a run ({error}); "
            "return numbers and texts of Python itself, in dictionaries and lists."
        ) from error
    return {
        "class": {
            "module": kind.__module__,
            "name": kind.__qualname__,
            "file": None if file is None else str(Path(file).absolute()),
        },
        "kept": kept,
    }


def kept_by(path: Path | str) -> Mapping[str, Any] | None:
    """What the task of the run in a folder has kept.

    Raises:
        WorkdirError: the folder holds no readable record of it.
    """
    kept: Mapping[str, Any] | None = _read(path)["kept"]
    return kept


def task_class(path: Path | str) -> type[Task]:
    """The class of the task of the run in a folder.

    Raises:
        WorkdirError: it is not to be found any more.
        ExperimentError: something is wrong in its file.
    """
    told = _read(path)["class"]
    module, name, file = told["module"], told["name"], told["file"]
    here = None if file is None or not Path(file).is_file() else Path(file)
    found = _part(sys.modules.get(module), name)
    if found is None or not _may_be(found, module, here):
        found = _part(_imported(path, module, name, file, here), name)
    if not (isinstance(found, type) and issubclass(found, Task)):
        if "<locals>" in name:
            raise WorkdirError(
                f"the run in {path} trained the task {name}, which is inside of a function, where "
                "it cannot be found; define it at the top of its file."
            )
        raise WorkdirError(
            f"the run in {path} trained the task {name}, which is not in {file or module} any "
            "more; put it back there."
        )
    return found


def _part(module: Any, name: str) -> Any:
    """What a dotted name is in a module, None if it is not there."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def _may_be(found: Any, module: str, file: Path | None) -> bool:
    """Whether it is what the file defines, and not what another one of the same name does.

    What is in a package is known by its name, wherever that is installed.
    """
    if file is None or "." in module:
        return True
    try:
        source = inspect.getsourcefile(found)
    except (OSError, TypeError):  # defined in a notebook, or no class
        return False
    return source is not None and Path(source).exists() and file.samefile(source)


def _imported(path: Path | str, module: str, name: str, file: str | None, here: Path | None) -> Any:
    """The module anew, by its name where it has one of its own, else from its file."""
    if module == "__main__" and here is not None and (here.parent / "__init__.py").is_file():
        module = _in_package(here)  # it was run with python -m
    if not module.startswith(("deqjax_experiment_", "__main__")):
        if here is None:
            with contextlib.suppress(ImportError):
                return importlib.import_module(module)
        else:
            found = _by_name(module, here)
            if _may_be(_part(found, name), module, here):
                return found
    if here is None:
        where = "in a notebook" if file is None else f"in {file}, which is not there any more"
        raise WorkdirError(
            f"the run in {path} trained the task {name}, which was defined {where}; put it in a "
            "file that stays where it is."
        )
    return translated(here, lambda: import_file(here))


def _by_name(module: str, file: Path) -> Any:
    """A module that lies in a file, imported by its name, None if that is impossible."""
    folder = file.parent if file.stem == "__init__" else file
    import_from(folder.parents[module.count(".")])
    try:
        return translated(file, lambda: importlib.import_module(module))
    except ExperimentError:
        if "." in module:
            raise
        return None  # its file by itself will do, or say what is wrong


def _in_package(file: Path) -> str:
    """The dotted name of a file in a package."""
    parts = [file.stem]
    for folder in file.parents:
        if not (folder / "__init__.py").is_file():
            break
        parts.insert(0, folder.name)
    return ".".join(parts)


def _read(path: Path | str) -> dict[str, Any]:
    refuse_another_version(Workdir.at(path))
    file = Workdir.at(path).task
    try:
        found = read_json(file)
    except (OSError, ValueError, RecursionError) as error:
        raise WorkdirError(f"{file} cannot be read ({error}); put it right.") from error
    match found:
        case {"class": {"module": str(), "name": str(), "file": str() | None}, "kept": _}:
            return dict(found)
    raise WorkdirError(f"{file} does not tell a run's task; put it right.")
