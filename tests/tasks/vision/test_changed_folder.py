"""A folder of images whose files change after a run was trained on it."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from deqjax import training
from deqjax.data import DataError
from deqjax.tasks.vision import Images
from deqjax.training import CheckpointError
from tiny import with_parts
from tiny_vision import tiny_vision


def paint(folder, name, count=12, shade=0, mode="L"):
    folder = folder / "train" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new(mode, (8, 8), (shade + number,) * len(mode)).save(folder / f"{number}.png")


def silent(line):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    paint(folder / "images", "bee")
    paint(folder / "images", "cat", shade=100)
    paint(folder / "images", "dog", shade=200)
    config = with_parts(
        tiny_vision("resnet", steps=1),
        task__images=Images("folder", folder=str(folder / "images")),
        penalty__weight=0.0,
    )
    training.train(config, folder / "run", say=silent)
    return folder


@pytest.fixture
def place(trained, tmp_path):
    """A copy that a test may change, and the run's configuration."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    config = training.load_run(tmp_path / "run").config
    moved = Images("folder", folder=str(tmp_path / "images"))
    return tmp_path, with_parts(config, steps=2, task__images=moved)


def opened(place):
    """The task as a run that goes on opens it."""
    folder, config = place
    kept = training.load_run(folder / "run").task.keeps()
    return config.task.opened(kept)


def test_numbers_of_classes_are_kept(place):
    folder, _ = place
    shutil.rmtree(folder / "images" / "train" / "bee")
    found = opened(place).found
    # "cat" is the first folder now, but was the second
    assert {int(found.train[i].label) for i in range(len(found.train))} == {1, 2}
    assert found.class_names == ("bee", "cat", "dog")


def test_a_class_that_the_run_does_not_know_is_named(place):
    folder, _ = place
    paint(folder / "images", "ant")
    with pytest.raises(DataError, match="ant"):
        opened(place).data("validation")


def test_a_model_is_used_without_the_images(place):
    folder, _ = place
    run = training.load_run(folder / "run")
    assert run.model(np.zeros((2, 8, 8, 1), np.float32)).logits.shape == (2, 3)
    assert "found" not in run.task.__dict__  # nobody looked for them


def test_images_of_another_kind_are_told(place):
    folder, _ = place
    paint(folder / "images", "bee", mode="RGB")
    with pytest.raises(DataError, match=r"had 1 channel\(s\), and have 3 now"):
        opened(place).data("validation")


def test_a_run_does_not_go_on_with_other_images(place):
    folder, config = place
    paint(folder / "images", "bee", count=14)
    with pytest.raises(CheckpointError, match=r"trained on other data \(.* -> .*\)"):
        training.train(config, folder / "run", resume=True, say=silent)


def test_it_goes_on_with_its_own_wherever_they_lie(place):
    folder, config = place
    assert training.train(config, folder / "run", resume=True, say=silent).step == 2
    assert dataclasses.asdict(training.load_run(folder / "run").config.task.images)[
        "folder"
    ] == str(folder / "images")
