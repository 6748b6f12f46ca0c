"""Values against the annotations of their fields, in dataclasses that nothing here knows."""

import dataclasses
from typing import Annotated, Literal

import annotated_types
import pydantic
import pytest

from deqjax._fields import FieldError, check_fields, check_value, read_fields
from deqjax._ranges import Count, NotNegative, Size


@dataclasses.dataclass(frozen=True)
class Stage:
    channels: Size = 8
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Base:
    pass


@dataclasses.dataclass(frozen=True)
class Own(Base):
    steps: Count = 3
    weight: NotNegative = 0.5
    kind: Literal["cat", "dog"] = "cat"
    width: Size | Literal["auto"] = "auto"
    limit: Count | None = None
    even: Annotated[int, pydantic.Field(multiple_of=2)] = 4
    name: Annotated[str, annotated_types.MinLen(1)] = "own"
    flag: bool = True
    sizes: tuple[Size, ...] = (1,)
    stage: Stage = Stage()
    stages: tuple[Stage, ...] = ()
    named: dict[str, Stage] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.steps == 13:
            raise ValueError("13 steps bring bad luck.")


@dataclasses.dataclass(frozen=True)
class Outer:
    task: Base = Own()


REFUSED = {
    "steps": (0, "--steps must be at least 1, got 0."),
    "weight": (float("nan"), "--weight must be a finite number, got nan."),
    "kind": ("cow", "--kind must be 'cat' or 'dog', got 'cow'."),
    "width": (0, "--width must be at least 1 or must be 'auto', got 0."),
    "limit": (10**10, "--limit must be at most 1000000000, got 10000000000."),
    "even": (3, "--even must be a multiple of 2, got 3."),
    "name": ("", "--name must have at least 1 character, got ''."),
    "flag": (1, "--flag must be a valid boolean, got 1."),
    "sizes": ((2, 0), "--sizes[1] must be at least 1, got 0."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_its_field_does_not_allow_is_named(name):
    value, sentence = REFUSED[name]
    with pytest.raises(FieldError) as caught:
        check_fields(Own(**{name: value}), "--")
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", REFUSED)
def test_a_stored_value_gets_the_same_sentence(name):
    value, sentence = REFUSED[name]
    with pytest.raises(FieldError) as caught:
        read_fields(Own, {name: value}, "--")
    assert str(caught.value) == sentence


def test_numbers_without_a_range_are_finite_too():
    with pytest.raises(FieldError, match=r"^scale must be a finite number, got inf\.$"):
        check_fields(Stage(scale=float("inf")))


@pytest.mark.parametrize("value", ["3", 3.0, True])
def test_nothing_is_converted_to_fit(value):
    with pytest.raises(FieldError, match="steps must be a valid integer, got"):
        check_fields(Own(steps=value))


def test_a_whole_number_is_a_number():
    check_fields(Own(weight=1))


@pytest.mark.parametrize(
    ("own", "place"),
    [
        (Own(stage=Stage(0)), "stage.channels"),
        (Own(stages=(Stage(), Stage(0))), "stages[1].channels"),
        (Own(named={"a": Stage(0)}), "named.a.channels"),
        (Outer(Own(steps=0)), "task.steps"),  # of the class that it is, not of its field's
    ],
    ids=["field", "tuple", "dict", "subclass"],
)
def test_dataclasses_inside_are_checked(own, place):
    with pytest.raises(FieldError) as caught:
        check_fields(own)
    assert str(caught.value) == f"{place} must be at least 1, got 0."


def test_each_error_has_its_sentence():
    with pytest.raises(FieldError) as caught:
        check_fields(Own(steps=0, stage=Stage(0), flag=None))
    assert len(str(caught.value).splitlines()) == 3


def test_another_dataclass_is_refused():
    with pytest.raises(FieldError, match="task must be an instance of Base, got Stage"):
        check_fields(Outer(task=Stage()))


def test_one_value_is_checked_by_an_annotation():
    check_value(3, Count, "--count")
    with pytest.raises(FieldError, match=r"^--count must be at least 1, got 0\.$"):
        check_value(0, Count, "--count")


def test_what_is_stored_is_read():
    values = {"sizes": [2, 3], "stages": [{"channels": 4}], "named": {"a": {"scale": 2}}}
    expected = Own(sizes=(2, 3), stages=(Stage(4),), named={"a": Stage(scale=2.0)})
    assert read_fields(Own, values) == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"outer": {"steps": 13}}, "outer: 13 steps bring bad luck."),
        ({"outer": {"name": "\ud800"}}, "a text in it is not Unicode."),
        ({}, "outer is missing."),
        ({"outer": 3}, "outer must be an object, got 3."),
    ],
)
def test_what_cannot_be_read_is_said(values, sentence):
    kind = dataclasses.make_dataclass("Kind", [("outer", Own)], frozen=True)
    with pytest.raises(FieldError) as caught:
        read_fields(kind, values)
    assert str(caught.value) == sentence
