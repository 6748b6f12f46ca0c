"""Fields of a task of one's own that cannot work are told with file and line."""

import dataclasses
from typing import ClassVar

import pytest

from deqjax.training import ConfigError, ExperimentError, RunConfig, Task, load_experiment
from deqjax.training._config import check
from deqjax.training._config_values import to_dict
from deqjax.training._stored_config import from_dict


@dataclasses.dataclass(frozen=True)
class Tiny(Task):
    """A task of which nothing but the fields is asked for."""

    def model(self, rngs): ...
    def data(self, split): ...
    def loss(self, model, batch): ...


MINE = """import dataclasses
from collections.abc import Callable
import numpy as np
from deqjax import training

@dataclasses.dataclass(frozen=True)
class Mine(training.Task):
    width: int = 4
    def model(self, rngs): ...
    def data(self, split): ...
    def loss(self, model, batch): ...

def config():
    return training.RunConfig("mine", task=Mine())
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("width: int = 4", "width = 4", 8, "has no type, so it is no field; write width: int = 4"),
        ("width: int = 4", "width: np.ndarray = None", 7, "type that cannot be stored with a run"),
        ("width: int = 4", "width: Callable = max", 7, "type that cannot be stored with a run"),
        ("    def loss(self, model, batch): ...\n", "", 13, "abstract method '?loss"),
        ("task=Mine()", "task=Mine", 14, "make one, as in task=MyTask()"),
    ],
)
def test_a_field_that_cannot_work_is_told(tmp_path, old, new, line, said):
    file = tmp_path / "mine.py"
    assert old in MINE
    file.write_text(MINE.replace(old, new))
    with pytest.raises(ExperimentError, match=said) as caught:
        load_experiment(file)
    assert str(caught.value).startswith(f"{file}, line {line}: ")
    assert "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Several(Tiny):
    names: frozenset[str] = frozenset("fedcba")


def test_a_set_is_stored_in_one_order():
    # each process has another order of its own
    config = RunConfig("several", task=Several())
    values = to_dict(config)
    assert values["task"]["names"] == ["a", "b", "c", "d", "e", "f"]
    assert from_dict(values, Several) == config


class Middle(Tiny):
    scale: float = 2.0


class Constant(Tiny):
    resumable: ClassVar[tuple[str, ...]] = ("width",)


@dataclasses.dataclass(frozen=True)
class Last(Middle):
    more: int = 1


def test_a_class_between_that_is_no_dataclass_is_told():
    with pytest.raises(ConfigError, match=r"fields of Middle \(scale\) would be no options"):
        check(RunConfig("last", task=Last()))


def test_constants_of_the_class_make_no_options():
    check(RunConfig("constant", task=Constant()))
