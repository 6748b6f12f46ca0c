"""The task of telling what images show: what goes together, and its batches."""

import dataclasses

import pytest
from PIL import Image

from deqjax import data
from deqjax.tasks.vision import Images, VisionTask
from deqjax.training import BatchOrder, ConfigError
from deqjax.training._config import check
from deqjax.training._config_values import to_dict
from deqjax.training._stored_config import from_dict
from tiny import with_parts
from tiny_vision import tiny_vision


def test_a_configuration_survives_json():
    config = tiny_vision("mdeq")
    assert from_dict(to_dict(config), VisionTask) == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images__name": "cityscapes"}, "does not go with a model for classification"),
        ({"images__resolution": 0}, "--task.images.resolution must be at least 1, got 0"),
        (
            {"images__name": "folder"},
            "--task.images.name folder needs the folder of your images: give --task.images.folder",
        ),
        (
            {"network__solver__adjoint": "reversible"},
            "--task.network.solver.adjoint: .* needs the method 'reversible', got 'anderson'",
        ),
    ],
    ids=["task", "resolution", "folder", "adjoint"],
)
def test_what_cannot_work_is_refused(change, sentence):
    config = tiny_vision()
    with pytest.raises(ConfigError, match=sentence):
        check(dataclasses.replace(config, task=with_parts(config.task, **change)))


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("resdeq", {"residual__input_channels": 3}, r"has 1 channel\(s\), but the model takes 3"),
        ("resdeq", {"residual__classes": 7}, "has 10 classes, but the model tells 7 apart"),
        (
            "resdeq",
            {"residual__pooled_grid": 3},
            "features of 8 x 8, which cannot be divided into pooled",
        ),
        ("mdeq", {"mdeq__downsample_times": 3}, "must be multiples of 16"),
    ],
    ids=["channels", "classes", "grid", "multiple"],
)
def test_a_model_that_does_not_take_the_images_is_refused(kind, change, sentence):
    task = tiny_vision(kind).task
    task = dataclasses.replace(task, network=with_parts(task.network, **change))
    with pytest.raises(ConfigError, match=sentence):
        task.opened(None).data("train")


def test_what_the_model_leaves_open_is_counted():
    shape = tiny_vision().task.opened(None).network.residual
    assert (shape.classes, shape.input_channels) == (10, 1)


def test_a_run_takes_images_of_ones_own(tmp_path):
    for number, name in enumerate(("ant", "bee")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for shade in range(12):
            path = tmp_path / "train" / name / f"{shade}.png"
            Image.new("L", (8, 8), 100 * number + shade).save(path)
    found = VisionTask(images=Images("folder", folder=str(tmp_path))).opened(None)
    assert found.keeps() == {"classes": ["ant", "bee"], "channels": 1}
    assert next(found.data("train").train(BatchOrder(8))).rows.images.shape == (8, 8, 8, 1)


def test_a_run_of_unknown_images_is_refused():
    task = VisionTask(images=Images("no_such_set"))
    with pytest.raises(data.DataError, match="there is no image data set 'no_such_set': choose"):
        task.opened(None)


def test_images_do_not_come_as_given():
    rows = VisionTask().data("train")
    with pytest.raises(data.DataError, match="leave --order shuffled"):
        rows.train(BatchOrder(8, shuffled=False))


def test_rows_that_only_fill_a_batch_do_not_count():
    rows = VisionTask().opened(None)
    batches = list(rows.data("test").evaluate(BatchOrder(64)))
    assert sum(int(batch.counted.sum()) for batch in batches) == len(rows.found.test)
    assert {batch.rows.images.shape for batch in batches} == {(64, 8, 8, 1)}
