"""Fields of a task of one's own that cannot work are told with file and line."""

import pytest

from deqjax.training import ExperimentError, load_experiment

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
