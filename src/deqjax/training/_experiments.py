"""Experiments are Python files with a function ``config() -> RunConfig``."""

import ast
import difflib
import importlib.util
import inspect
import json
import os
import sys
import zlib
from pathlib import Path
from types import ModuleType

import cloudpickle
import pydantic

from deqjax.training._config import RunConfig
from deqjax.training._config_values import to_dict
from deqjax.training._options import ConfigError
from deqjax.training._sentences import ExperimentError, at, first_of, translated
from deqjax.training._task import Task


def load_experiment(path: Path | str) -> RunConfig:
    """Run an experiment's file and return the configuration that it builds.

    The file is ordinary Python; it may import modules that lie beside it.

    Args:
        path: of the file.

    Raises:
        ExperimentError: there is no such file, something in it is wrong, or it has no function
            ``config`` that returns a [`deqjax.training.RunConfig`][].
    """
    file = Path(path)
    if not file.is_file():
        raise ExperimentError(_missing(file))
    module = translated(file, lambda: import_file(file))
    build = getattr(module, "config", None)
    if not callable(build):
        raise ExperimentError(
            f"{file} has no function config() that returns a deqjax.training.RunConfig."
        )
    config = translated(file, build)
    if not isinstance(config, RunConfig):
        raise ExperimentError(
            f"config() in {file} returns a {type(config).__name__}, not a "
            "deqjax.training.RunConfig."
        )
    _check_types(file, config)
    return config


def import_file(file: Path) -> ModuleType:
    """Run a Python file as a module of its own, anew each time.

    Raises:
        ExperimentError: its name does not end in .py.
    """
    # others of the same name may lie in other folders
    place = zlib.crc32(os.path.abspath(file).encode())
    spec = importlib.util.spec_from_file_location(
        f"deqjax_experiment_{file.stem}_{place:08x}", file
    )
    if spec is None or spec.loader is None:
        raise ExperimentError(f"{file} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up here while the file runs
    sys.modules[spec.name] = module
    # processes that prepare batches find no such module: what they need of it goes along
    cloudpickle.register_pickle_by_value(module)
    import_from(file.parent)
    spec.loader.exec_module(module)
    return module


def import_from(folder: Path) -> None:
    """Let modules that lie in a folder be imported."""
    found = os.path.abspath(folder)
    if found not in sys.path:
        sys.path.append(found)  # last, so that it hides nothing that is installed


def _check_types(file: Path, config: RunConfig) -> None:
    """Raise an ExperimentError for a value that is not of its field's type, which Python takes."""
    if not isinstance(config.task, Task):
        raise ExperimentError(
            f"{at(file, _line_of(file, 'task'))}: task is no deqjax.training.Task, but "
            f"{config.task!r}; make one, as in task=MyTask()."
        )
    kind = type(config.task)
    for name, value in vars(kind).items():
        plain = isinstance(value, bool | int | float | str) and not name.startswith("_")
        if plain and name not in inspect.get_annotations(kind):
            raise ExperimentError(
                f"{at(file, _set_on(file, name))}: {name} of {kind.__name__} has no type, so it is "
                f"no field; write {name}: {type(value).__name__} = {value!r}."
            )
    try:
        values = to_dict(config)
    except ConfigError as error:
        raise ExperimentError(f"{at(file, _set_on(file, kind.__name__))}: {error}") from error
    try:
        adapter = pydantic.TypeAdapter(type(config.typed()))
        adapter.validate_json(json.dumps(values), strict=True)
    except pydantic.ValidationError as error:
        name, sentence = first_of(error)
        raise ExperimentError(f"{at(file, _line_of(file, name))}: {sentence}") from error


def _line_of(file: Path, name: str) -> int | None:
    """The line on which a keyword is given, if there is one only; else that of ``config``."""
    tree = ast.parse(file.read_bytes())
    given = [n.value.lineno for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg == name]
    if len(given) == 1:
        return given[0]
    made = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "config"]
    return made[0].lineno if made else None


def _set_on(file: Path, name: str) -> int | None:
    """The first line that defines a class, or sets a variable, of this name."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node.lineno
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            return node.lineno
    return None


def _missing(file: Path) -> str:
    """A sentence about a file that does not exist, with the experiment that was probably meant."""
    if file.is_dir():
        return f"{file} is a folder; give the path of a Python file with a function config()."
    beside = file.parent.glob("*.py") if file.parent.is_dir() else ()
    known = sorted(
        {each for each in (*beside, *Path("experiments").rglob("*.py")) if _is_one(each)}
    )
    by_name = {each.name: each for each in known}
    near = difflib.get_close_matches(str(file), map(str, known), n=1)
    near = near or [
        str(by_name[name])
        for name in difflib.get_close_matches(f"{file.stem}.py", by_name, n=1, cutoff=0.75)
    ]
    if near:
        return f"there is no experiment file {file}; did you mean {near[0]}?"
    found = f" (found here: {', '.join(map(str, known))})" if known else ""
    return (
        f"there is no experiment file {file}{found}; give the path of a Python file with a "
        "function config() that returns a deqjax.training.RunConfig."
    )


def _is_one(file: Path) -> bool:
    try:
        return b"def config(" in file.read_bytes()
    except OSError:  # not ours to read
        return False
