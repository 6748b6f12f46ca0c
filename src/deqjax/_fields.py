"""Whether values are what the annotations of their fields allow: types, choices and ranges.

pydantic reads the annotations. It is imported when the first value is checked, so that importing
what declares them stays light.
"""

import dataclasses
import functools
import json
import re
import reprlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from deqjax._extras import needs

if TYPE_CHECKING:
    import pydantic

Settings = TypeVar("Settings")


class FieldError(ValueError):
    """One sentence for each value that its field does not allow."""


def check_fields(settings: Any, prefix: str = "") -> None:
    """Refuse a dataclass with a value that its field, or a nested dataclass's, does not allow.

    A nested dataclass is checked as what it is, also where the field names a class above it.

    Args:
        settings: the dataclass; no number in it may be infinite or NaN.
        prefix: what stands before the dotted name of a field; "--" names it as an option.

    Raises:
        FieldError: a sentence for each such value.
        MissingExtraError: pydantic is not installed, which the core does without.
    """
    found = list(_faults(settings, prefix))
    if found:
        raise FieldError("\n".join(found))


def check_value(value: Any, allowed: Any, name: str) -> None:
    """Refuse one value that an annotation does not allow.

    Raises:
        FieldError: it does not.
    """
    found = _sentences(value, _adapter(allowed), name)
    if found:
        raise FieldError("\n".join(found))


def read_fields(kind: type[Settings], values: Mapping[str, Any], prefix: str = "") -> Settings:
    """The dataclass of this kind that JSON values describe.

    Raises:
        FieldError: a sentence for each value that is missing or not allowed.
    """
    import pydantic

    hashed: Any = kind  # which mypy doubts
    try:
        read: Settings = _reader(hashed).validate_json(json.dumps([values]))[0]
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False)
    else:
        return read
    if problems[0]["type"] == "json_invalid":  # what json.dumps writes is, but for half a character
        raise FieldError("a text in it is not Unicode.")
    raise FieldError("\n".join(_told(problems, values, prefix)))


def _faults(settings: Any, prefix: str) -> Iterator[str]:
    kind: Any = type(settings)
    for field, adapter in _adapters(kind).items():
        name, value = f"{prefix}{field}", getattr(settings, field)
        yield from _sentences(value, adapter, name)
        if any(map(_is_broken, _texts_in(value))):  # which no file could hold
            yield f"{name} must be a text of Unicode characters, got {reprlib.repr(value)}."
        for place, part in _dataclasses_in(value, name):
            yield from _faults(part, f"{place}.")


def _sentences(value: Any, adapter: "pydantic.TypeAdapter[Any]", name: str) -> list[str]:
    import pydantic

    try:
        adapter.validate_python((value,))
    except pydantic.ValidationError as error:
        return list(_told(error.errors(include_url=False), value, name))
    return []


def _dataclasses_in(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The outermost dataclasses of a value, with where they stand."""
    if dataclasses.is_dataclass(value):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _dataclasses_in(part, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _dataclasses_in(part, f"{name}[{index}]")


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts_in([*value, *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _texts_in(part)


def _is_broken(text: str) -> bool:
    """Whether it has half of a character, as what stands for a byte that is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


@functools.cache
def _reader(kind: type[Any]) -> "pydantic.TypeAdapter[Any]":
    return _adapter(kind)


@functools.cache
def _adapters(kind: type[Any]) -> dict[str, "pydantic.TypeAdapter[Any]"]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: _adapter(hints[field.name]) for field in dataclasses.fields(kind)}


def _adapter(allowed: Any) -> "pydantic.TypeAdapter[Any]":
    """What checks a tuple of one such value; a dataclass by itself would take no options."""
    with needs("train", "the check of sizes and options"):
        import pydantic

    # strict: a value is stored and used as it is, so nothing is converted to fit
    options = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
    return pydantic.TypeAdapter(tuple[allowed], config=options)


def _told(problems: Iterable[Any], value: Any, name: str) -> Iterator[str]:
    """A sentence for each place; a union may be missed in several ways, one for each choice."""
    places: dict[str, list[Any]] = {}
    for problem in problems:
        # the first step is into the tuple of one
        place = _place(problem["loc"][1:], value, name, missing=problem["type"] == "missing")
        places.setdefault(place, []).append(problem)
    for place, (first, *others) in places.items():
        if first["type"] == "value_error":  # a dataclass's own sentence
            yield f"{place}: {first['ctx']['error']}"
        elif first["type"] == "missing":
            yield f"{place} is missing."
        else:
            ways = dict.fromkeys(_demand(each["msg"]) for each in (first, *others))
            yield f"{place} {' or '.join(ways)}, got {reprlib.repr(first['input'])}."


def _place(path: Iterable[int | str], value: Any, name: str, *, missing: bool) -> str:
    """The name of a part of a value; of a path's steps, the choices of unions lead nowhere."""
    for part in path:
        if isinstance(part, int) and isinstance(value, list | tuple):
            name, value = f"{name}[{part}]", value[part]
        elif isinstance(value, Mapping) and (missing or part in value):
            name += f"{part}" if name in ("", "--") else f".{part}"
            value = value.get(part)
    return name


def _demand(message: str) -> str:
    """Input should be greater than or equal to 1 -> must be at least 1."""
    message = message.replace("greater than or equal to", "at least")
    message = message.replace("less than or equal to", "at most")
    return re.sub(r"^\w+ should", "must", message)
