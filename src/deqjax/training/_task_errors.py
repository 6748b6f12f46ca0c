"""What somebody else's task raises, as a sentence with file and line."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deqjax.data.pipeline import DataError
from deqjax.training._sentences import ExperimentError, translated
from deqjax.training._task import Task

Made = TypeVar("Made")


def of_task(task: Task, call: Callable[[], Made]) -> Made:
    """What a call of a task's methods returns.

    Raises:
        DataError: it raised that, or what is called with what it returned did.
        ExperimentError: it failed; says where in the file of the task. A task of this package, or
            one that is in no file, as in a notebook, may raise what it likes.
    """
    if type(task).__module__.startswith("deqjax."):
        return call()
    try:
        file = inspect.getsourcefile(type(task))
    except (OSError, TypeError):
        file = None
    if file is None:
        return call()
    try:
        return translated(Path(file), call)
    except ExperimentError as error:
        if isinstance(error.__cause__, DataError):  # a sentence of ours, which names the data
            raise error.__cause__ from None
        raise
