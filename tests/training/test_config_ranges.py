"""Every number of every configuration has a finite range, in whose ends it may lie, not beyond."""

import dataclasses
import math
import re
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import annotated_types
import pytest

from deqjax._fields import check_value
from deqjax.tasks.language import LanguageTask
from deqjax.tasks.vision import VisionTask
from deqjax.training import ConfigError, Count, RunConfig
from deqjax.training._config import with_task
from deqjax.training._config_values import to_dict
from deqjax.training._stored_config import from_dict

TASKS = (LanguageTask, VisionTask)


def declared(kind, prefix=""):
    """Dotted name -> annotation of every field, those of nested dataclasses included."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            found |= declared(hint, f"{prefix}{name}.")
        else:
            found[prefix + name] = hint
    return found


def numbers(hint):
    """What each number in an annotation is, int or float, and its constraints."""
    if get_origin(hint) is Annotated:
        base, *markers = get_args(hint)
        if base in (int, float):
            yield base, {type(each): each for each in unpacked(markers)}
            return
        hint = base
    if hint in (int, float):
        yield hint, {}
    elif get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from numbers(part)


def unpacked(markers):
    """The markers, an Interval as its ends."""
    for each in markers:
        yield from each if isinstance(each, annotated_types.GroupedMetadata) else (each,)


def ends(markers):
    """The lower and the upper end, None where there is none."""
    low = markers.get(annotated_types.Ge) or markers.get(annotated_types.Gt)
    high = markers.get(annotated_types.Le) or markers.get(annotated_types.Lt)
    return (
        low and getattr(low, "ge", getattr(low, "gt", None)),
        high and getattr(high, "le", getattr(high, "lt", None)),
    )


def without_range(kind):
    """Names of the fields with a number whose range has no finite end on either side."""
    return [
        name
        for name, hint in declared(kind).items()
        if any(
            end is None or not math.isfinite(end)
            for _, markers in numbers(hint)
            for end in ends(markers)
        )
    ]


def in_and_out(number, markers):
    """Values that lie in a range, at its ends where they belong to it, and values beyond them."""
    low, high = ends(markers)
    inside, beyond = [], [low - 1, 2 * high + 1]
    for end, included in ((low, annotated_types.Ge), (high, annotated_types.Le)):
        (inside if included in markers else beyond).append(end)
    if number is float:
        beyond += [math.nan, math.inf, -math.inf]
        inside.append((low + high) / 2)
    return inside, beyond


def shaped_like(default, value):
    """The value, where the field holds several numbers in a list of them."""
    return [value] * max(len(default), 1) if isinstance(default, list) else value


def located(values, path):
    """The innermost dictionary with a field, and the field's name in it."""
    *outer, name = path.split(".")
    for each in outer:
        values = values[each]
    return values, name


NUMERIC = [
    pytest.param(task, path, id=f"{task.__name__}-{path}")
    for task in TASKS
    for path, hint in declared(with_task(task)).items()
    if any(numbers(hint)) and (task is LanguageTask or path.startswith("task."))
]


@pytest.mark.parametrize("task", TASKS)
def test_every_number_has_a_finite_range(task):
    assert without_range(with_task(task)) == []


def test_a_number_without_range_is_seen():
    fields = [("width", tuple[int, ...]), ("rate", float | None), ("batches", Count)]
    planted = dataclasses.make_dataclass("Planted", fields)
    half = dataclasses.make_dataclass("Half", [("x", Annotated[float, annotated_types.Ge(0)])])
    assert without_range(planted) == ["width", "rate"]
    assert without_range(half) == ["x"]


def test_there_are_numbers():
    assert len(NUMERIC) > 60


@pytest.mark.parametrize(("task", "path"), NUMERIC)
def test_values_out_of_range_are_named(task, path):
    for number, markers in numbers(declared(with_task(task))[path]):
        for value in in_and_out(number, markers)[1]:
            values = to_dict(RunConfig("ranged", task=task()))
            inner, name = located(values, path)
            inner[name] = shaped_like(inner[name], value)
            with pytest.raises(ConfigError) as caught:
                from_dict(values, task)
            expected = rf"--{re.escape(path)}(\[0\])? must be .*, got {re.escape(repr(value))}\."
            assert re.search(expected, str(caught.value)), caught.value


@pytest.mark.parametrize(("task", "path"), NUMERIC)
def test_the_ends_of_a_range_are_allowed(task, path):
    hint = declared(with_task(task))[path]
    default, name = located(to_dict(RunConfig("ranged", task=task())), path)
    for number, markers in numbers(hint):
        for value in in_and_out(number, markers)[0]:
            shaped = shaped_like(default[name], value)
            check_value(tuple(shaped) if isinstance(shaped, list) else shaped, hint, path)
