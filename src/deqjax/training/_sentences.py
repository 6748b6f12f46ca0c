"""What is wrong in somebody else's Python, as one sentence with file and line."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pydantic

Made = TypeVar("Made")


class ExperimentError(ValueError):
    """A file is no experiment, or something is wrong in it; the message says where."""


def translated(file: Path, call: Callable[[], Made]) -> Made:
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
        return at(file if there == os.path.abspath(file) else Path(there), error.lineno)
    found = [
        number
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == os.path.abspath(file)
    ]
    return at(file, found[-1] if found else None)


def at(file: Path, line: int | None) -> str:
    """A file, and the line in it if there is one."""
    return str(file) if line is None else f"{file}, line {line}"


def _said(error: BaseException) -> str:
    """What Python would print of an error, in a line, with the name that was probably meant."""
    if isinstance(error, pydantic.ValidationError):
        return first_of(error)[1]
    if type(error).__module__.startswith("deqjax."):  # a sentence already
        return str(error)
    printed = "".join(traceback.TracebackException.from_exception(error).format_exception_only())
    lines = [line for line in printed.splitlines() if line.startswith(type(error).__name__)]
    said = lines[0] if lines else printed.splitlines()[0]
    return said if said.endswith((".", "?", "!")) else f"{said}."


def first_of(error: pydantic.ValidationError) -> tuple[str, str]:
    """The name of the first field that is wrong, and a sentence about it."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    wrong = f", got {first['input']!r}" if path and first["type"] != "missing" else ""
    message = first["msg"][0].lower() + first["msg"][1:]
    return path[-1] if path else "", f"{'.'.join(path) or error.title}: {message}{wrong}."
