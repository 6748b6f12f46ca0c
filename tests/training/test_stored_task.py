"""The class of a run's task is found again, in whatever kind of module it was defined."""

import dataclasses
import sys

import numpy as np
import pytest

from deqjax.training import ConfigError, Task, WorkdirError, load_experiment
from deqjax.training._stored_task import stored_task, task_class
from deqjax.training._workdir import Workdir, write_config

FILE = """
import dataclasses
from typing import ClassVar
from deqjax.training import RunConfig, Task

@dataclasses.dataclass(frozen=True)
class Own(Task):
    place: ClassVar[str] = {place!r}
    def model(self, rngs): ...
    def data(self, split): ...
    def loss(self, model, batch): ...

def config():
    return RunConfig("own", task=Own())
"""


@pytest.fixture(autouse=True)
def same_modules(monkeypatch):
    """What is imported here is forgotten."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "own" in name:
            del sys.modules[name]


def write(folder, name="own.py"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(FILE.format(place=folder.name))
    return folder / name


def begun(folder, task):
    """The folder of a run of this task that has just begun."""
    folder.mkdir()
    write_config(Workdir(folder), "own", {}, stored_task(task, task))
    return folder


def test_experiments_of_one_name_in_two_folders_stay_apart(tmp_path):
    runs = {}
    for place in ("first", "second"):
        task = load_experiment(write(tmp_path / place)).task
        runs[place] = begun(tmp_path / f"run-{place}", task)
    for place, run in runs.items():
        assert task_class(run).place == place


def test_modules_beside_two_experiments_stay_apart(tmp_path, monkeypatch):
    runs = {}
    for place in ("first", "second"):
        write(tmp_path / place, "own_tasks.py")
        monkeypatch.syspath_prepend(tmp_path / place)
        sys.modules.pop("own_tasks", None)
        import own_tasks

        runs[place] = begun(tmp_path / f"run-{place}", own_tasks.Own())
    for place, run in runs.items():
        assert task_class(run).place == place


def test_a_package_beside_an_experiment_is_imported_as_one(tmp_path):
    package = tmp_path / "own_package" / "inner"
    write(package, "tasks.py")
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "tasks.py").write_text("from ..base import Own\n" + FILE.format(place="inner"))
    write(package.parent, "base.py")
    (tmp_path / "experiment.py").write_text("from own_package.inner.tasks import config\n")
    run = begun(tmp_path / "run", load_experiment(tmp_path / "experiment.py").task)
    for name in [each for each in sys.modules if each.startswith("own_package")]:
        del sys.modules[name]
    sys.path.remove(str(tmp_path))  # as another process has it
    found = task_class(run)
    assert found.place == "inner"
    assert found.__module__ == "own_package.inner.tasks"


def test_a_module_that_was_run_in_a_package_is_imported_from_it(tmp_path):
    file = write(tmp_path / "own_program", "start.py")
    (file.parent / "__init__.py").touch()
    (file.parent / "base.py").touch()
    task = load_experiment(file).task
    run = begun(tmp_path / "run", task)
    told = Workdir(run).task
    told.write_text(told.read_text().replace(type(task).__module__, "__main__"))
    file.write_text("from . import base\n" + file.read_text())
    assert task_class(run).__module__ == "own_program.start"


def test_a_file_that_has_moved_serves_where_it_is_loaded_from(tmp_path):
    task = load_experiment(write(tmp_path / "here")).task
    run = begun(tmp_path / "run", task)
    (tmp_path / "here" / "own.py").rename(tmp_path / "own.py")
    assert task_class(run) is type(task)  # it is still there in this process
    del sys.modules[type(task).__module__]
    with pytest.raises(WorkdirError, match=r"own\.py, which is not there any more; put it in a"):
        task_class(run)


def test_a_class_inside_of_a_function_is_not_found_again(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Hidden(load_experiment(write(tmp_path)).task.__class__):
        pass

    run = begun(tmp_path / "run", Hidden())
    with pytest.raises(WorkdirError, match="is inside of a function, where it cannot be found"):
        task_class(run)


@dataclasses.dataclass(frozen=True)
class Keeping(Task):
    def model(self, rngs): ...
    def data(self, split): ...
    def loss(self, model, batch): ...
    def keeps(self):
        return {"classes": np.int64(3)}


def test_what_a_task_keeps_must_be_json():
    with pytest.raises(ConfigError, match=r"keeps\(\) of Keeping .* int64 .*; return numbers"):
        stored_task(Keeping(), Keeping())
