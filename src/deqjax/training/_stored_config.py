"""A run's configuration as JSON values and back."""

import json
from typing import Any

import pydantic

from deqjax._fields import FieldError, read_fields
from deqjax.training._config import ConfigError, RunConfig
from deqjax.training._language_config import TrainConfig
from deqjax.training._vision_config import VisionConfig
from deqjax.training._workdir import differences


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    values: dict[str, Any] = json.loads(pydantic.TypeAdapter(type(config)).dump_json(config))
    return values


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The inverse of `to_dict`.

    Raises:
        ConfigError: a value is not allowed, or the fields are those of another version.
    """
    of_images = "images" in (values.get("data") or {})
    kind: type[RunConfig] = VisionConfig if of_images else TrainConfig
    try:
        config = read_fields(kind, values, "--")
    except FieldError as error:
        raise ConfigError(f"the stored configuration does not fit: {error}") from error
    changes = differences(values, to_dict(config))
    if changes:
        listed = ", ".join(f"{name}: {change}" for name, change in changes.items())
        raise ConfigError(
            f"the stored configuration was written by another version of deqjax ({listed}); use "
            "the version that wrote it."
        )
    return config
