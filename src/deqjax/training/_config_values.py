"""A run's configuration as JSON values."""

import json
from typing import Any

import pydantic
import pydantic_core

from deqjax._fields import FieldError, check_fields
from deqjax.training._config import RunConfig
from deqjax.training._options import ConfigError


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON values.

    Raises:
        ConfigError: the task has a field of a type that cannot be stored.
    """
    own = config.typed()
    try:
        # values of a wrong type are told where types are checked
        found = _ordered(pydantic.TypeAdapter(type(own)).dump_python(own, warnings=False))
        values: dict[str, Any] = json.loads(pydantic_core.to_json(found, inf_nan_mode="null"))
    except (
        pydantic.errors.PydanticSchemaGenerationError,
        pydantic_core.PydanticSerializationError,
    ) as error:
        _refuse_broken_texts(own, error)
        wrong = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"a field of {type(config.task).__name__} has a type that cannot be stored with a run "
            f"({wrong}); use numbers, texts, tuples, and dataclasses of them."
        ) from error
    return values


def _refuse_broken_texts(config: RunConfig, error: Exception) -> None:
    """Raise a ConfigError that names the field, if a text that is not Unicode is what was wrong."""
    if isinstance(error, pydantic_core.PydanticSerializationError):
        try:
            check_fields(config, "--")
        except FieldError as fault:
            raise ConfigError(str(fault)) from error


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
