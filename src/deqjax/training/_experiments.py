"""Experiments are Python files with a function ``config() -> RunConfig``."""

import ast
import difflib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pydantic

from deqjax.training._config import RunConfig

Made = TypeVar("Made")


class ExperimentError(ValueError):
    """A file is no experiment, or something is wrong in it; the message says where."""


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
    module = _translated(file, lambda: _imported(file))
    build = getattr(module, "config", None)
    if not callable(build):
        raise ExperimentError(
            f"{file} has no function config() that returns a deqjax.training.RunConfig."
        )
    config = _translated(file, build)
    if not isinstance(config, RunConfig):
        raise ExperimentError(
            f"config() in {file} returns a {type(config).__name__}, not a "
            "deqjax.training.RunConfig."
        )
    _check_types(file, config)
    return config


def _imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"deqjax_experiment_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ExperimentError(f"{file} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up here while the file runs
    sys.modules[spec.name] = module
    beside = os.path.abspath(file.parent)
    if beside not in sys.path:
        sys.path.append(beside)  # last, so that it hides nothing that is installed
    spec.loader.exec_module(module)
    return module


def _translated(file: Path, call: Callable[[], Made]) -> Made:
    """Call what somebody else has written: whatever it raises becomes a sentence with a line."""
    try:
        return call()
    except ExperimentError:  # of a file that this one builds on, or of the file as a whole
        raise
    except (Exception, SystemExit) as error:  # it is not our code, and may raise anything
        raise ExperimentError(f"{_place(file, error)}: {_said(error)}") from error


def _place(file: Path, error: BaseException) -> str:
    """The line of the file that led to the error; of a syntax error, its own."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        there = error.filename or str(file)
        return _at(file if there == os.path.abspath(file) else Path(there), error.lineno)
    found = [
        number
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == os.path.abspath(file)
    ]
    return _at(file, found[-1] if found else None)


def _at(file: Path, line: int | None) -> str:
    return str(file) if line is None else f"{file}, line {line}"


def _said(error: BaseException) -> str:
    """What Python would print of an error, in a line, with the name that was probably meant."""
    if isinstance(error, pydantic.ValidationError):
        return _first_of(error)[1]
    if type(error).__module__.startswith("deqjax."):  # a sentence already
        return str(error)
    printed = "".join(traceback.TracebackException.from_exception(error).format_exception_only())
    lines = [line for line in printed.splitlines() if line.startswith(type(error).__name__)]
    said = lines[0] if lines else printed.splitlines()[0]
    return said if said.endswith((".", "?", "!")) else f"{said}."


def _check_types(file: Path, config: RunConfig) -> None:
    """Raise an ExperimentError for a value that is not of its field's type, which Python takes."""
    adapter = pydantic.TypeAdapter(type(config))
    values = adapter.dump_json(config, warnings=False)
    try:
        adapter.validate_json(values, strict=True)
    except pydantic.ValidationError as error:
        name, sentence = _first_of(error)
        raise ExperimentError(f"{_at(file, _line_of(file, name))}: {sentence}") from error


def _first_of(error: pydantic.ValidationError) -> tuple[str, str]:
    """The name of the first field that is wrong, and a sentence about it."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    wrong = f", got {first['input']!r}" if path and first["type"] != "missing" else ""
    message = first["msg"][0].lower() + first["msg"][1:]
    return path[-1] if path else "", f"{'.'.join(path) or error.title}: {message}{wrong}."


def _line_of(file: Path, name: str) -> int | None:
    """The line on which a keyword is given, if there is one only; else that of ``config``."""
    tree = ast.parse(file.read_bytes())
    given = [n.value.lineno for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg == name]
    if len(given) == 1:
        return given[0]
    made = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "config"]
    return made[0].lineno if made else None


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
