"""What a run remembers of its task beside the configuration: its class, and what it has kept."""

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqjax.training._experiments import import_file
from deqjax.training._sentences import translated
from deqjax.training._task import Task
from deqjax.training._workdir import Workdir, WorkdirError, refuse_another_version


def stored_task(task: Task, opened: Task) -> dict[str, Any]:
    """Where the class of a configuration's task is defined, and what the opened task keeps."""
    kind = type(task)
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):  # defined in a notebook
        file = None
    return {
        "class": {
            "module": kind.__module__,
            "name": kind.__qualname__,
            "file": None if file is None else str(Path(file).absolute()),
        },
        "kept": opened.keeps(),
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
    found: Any = sys.modules.get(module)
    if found is None or not hasattr(found, name.partition(".")[0]):
        found = _imported(path, module, name, file)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise WorkdirError(
            f"the run in {path} trained the task {name}, which is not in {file or module} any "
            "more; put it back there."
        )
    return found


def _imported(path: Path | str, module: str, name: str, file: str | None) -> Any:
    if not module.startswith(("deqjax_experiment_", "__main__")):
        try:
            return importlib.import_module(module)
        except ImportError:  # it lay beside an experiment
            pass
    if file is None or not Path(file).is_file():
        where = "in a notebook" if file is None else f"in {file}, which is not there any more"
        raise WorkdirError(
            f"the run in {path} trained the task {name}, which was defined {where}; put it in a "
            "file that stays where it is."
        )
    return translated(Path(file), lambda: import_file(Path(file)))


def _read(path: Path | str) -> dict[str, Any]:
    refuse_another_version(Workdir.at(path))
    file = Workdir.at(path).task
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WorkdirError(f"{file} cannot be read ({error}); put it right.") from error
    match found:
        case {"class": {"module": str(), "name": str(), "file": str() | None}, "kept": _}:
            return dict(found)
    raise WorkdirError(f"{file} does not tell a run's task; put it right.")
