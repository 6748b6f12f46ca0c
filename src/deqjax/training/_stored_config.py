"""The configuration that a run was begun with, read from its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqjax._fields import FieldError, read_fields
from deqjax.training._config import RunConfig, plain, with_task
from deqjax.training._config_values import to_dict
from deqjax.training._options import ConfigError
from deqjax.training._stored_task import task_class
from deqjax.training._task import Task
from deqjax.training._workdir import differences, read_config


def from_dict(values: Mapping[str, Any], task: type[Task]) -> RunConfig:
    """The configuration of JSON values: the inverse of `to_dict`.

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
