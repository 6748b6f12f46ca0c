"""Options of a published model, checked against their declaration."""

from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from deqjax.convert._errors import ConversionError

Options = TypeVar("Options", bound=pydantic.BaseModel)


def check_options(kind: type[Options], values: Mapping[str, Any]) -> Options:
    """The options in a JSON file's values.

    Raises:
        ConversionError: one that lists every missing, unknown or mistyped option.
    """
    try:
        return kind(**values)
    except pydantic.ValidationError as error:
        found = "; ".join(_problem(**problem) for problem in error.errors(include_url=False))
        raise ConversionError(
            f"the configuration does not fit: {found}; its options are "
            f"{', '.join(kind.model_fields)}."
        ) from error


def _problem(*, type: str, loc: tuple[int | str, ...], msg: str, input: Any, **_: Any) -> str:
    name = ".".join(map(str, loc))
    if type == "missing":
        return f"{name} is missing"
    if type == "extra_forbidden":
        return f"{name} is unknown"
    return f"{name} is {input!r} ({msg[:1].lower()}{msg[1:]})"
