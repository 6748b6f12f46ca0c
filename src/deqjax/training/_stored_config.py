"""A run's configuration as JSON values and back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import pydantic_core

from deqjax._fields import FieldError, read_fields
from deqjax.training._config import RunConfig, plain, with_task
from deqjax.training._options import ConfigError
from deqjax.training._stored_task import task_class
from deqjax.training._task import Task
from deqjax.training._workdir import differences, read_config


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON values.

    Raises:
        ConfigError: the task has a field of a type that cannot be stored.
    """
    own = config.typed()
    try:
        found = _ordered(pydantic.TypeAdapter(type(own)).dump_python(own))
    except pydantic.errors.PydanticSchemaGenerationError as error:
        raise ConfigError(
            f"a field of {type(config.task).__name__} has a type that cannot be stored with a run "
            f"({str(error).splitlines()[0]}); use numbers, texts, tuples, and dataclasses of them."
        ) from error
    values: dict[str, Any] = json.loads(pydantic_core.to_json(found, inf_nan_mode="null"))
    return values


def _ordered(tree: Any) -> Any:
    """With lists in place of sets, whose order is another one in every process."""
    match tree:
        case dict():
            return {name: _ordered(branch) for name, branch in tree.items()}
        case list() | tuple():
            return [_ordered(branch) for branch in tree]
        case set() | frozenset():
            return sorted(tree, key=repr)
    return tree


def from_dict(values: Mapping[str, Any], task: type[Task]) -> RunConfig:
    """The inverse of `to_dict`.

    Args:
        values: of a configuration.
        task: the class of its task.

    Raises:
        ConfigError: a value is not allowed, or the fields are those of another version.
    """
    hashed: Any = task  # which mypy doubts
    try:
        config = plain(read_fields(with_task(hashed), values, "--"))
    except FieldError as error:
        raise ConfigError(f"the stored configuration does not fit: {error}") from error
    changes = differences(values, to_dict(config))
    if changes:
        listed = ", ".join(f"{name}: {change}" for name, change in changes.items())
        raise ConfigError(
            f"the stored configuration was written by another version of deqjax, or of its task "
            f"({listed}); use the version that wrote it."
        )
    return config


def stored_config(path: Path | str) -> RunConfig:
    """The configuration of the run in a folder.

    Raises:
        WorkdirError, ConfigError, ExperimentError: there is no readable one, or the class of its
            task is gone.
    """
    _, values = read_config(path)
    return from_dict(values, task_class(path))
