"""A segmentation run of Cityscapes, from prepared files to scores by class and pictures."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from deqjax import cli, data, training
from deqjax.tasks.vision._overlays import overlay, palette
from image_samples import cityscapes_example, write_prepared
from tiny import with_parts
from tiny_vision import tiny_vision


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cityscapes")
    splits = {
        "train": [cityscapes_example(i) for i in range(40)],
        "validation": [cityscapes_example(100 + i) for i in range(3)],
        "test": [cityscapes_example(9)],
    }
    write_prepared("cityscapes/semantic_segmentation", directory, splits)
    tiny = tiny_vision("mdeq", steps=2, batch_size=4)
    # what compiles fastest: nothing here depends on the branches or on how they are solved
    shape = dataclasses.replace(
        tiny.task.network.mdeq,
        channels=(4,),
        head_channels=(),
        downsample_times=2,
        task="segmentation",
    )
    config = with_parts(
        tiny,
        task__network__mdeq=shape,
        task__network__solver__method="picard",
        task__network__solver__adjoint="jacobian_free",
        task__images__name="cityscapes",
        task__images__augmentation=data.Augmentation("joint_scale_crop", crop=(16, 32)),
        task__images__directory=str(directory),
        evaluation__radius_batches=0,
        penalty__weight=0.0,
    )
    return training.train(config, tmp_path_factory.mktemp("run") / "run", say=lambda line: None)


def test_only_pixels_of_evaluated_classes_are_scored(run):
    # of the rows 0 to 15 of both held-out images, 7, 8, 11, 12 and 13 are of classes
    assert run.metrics["scored"] == 2 * 5 * 32
    assert 0 <= run.metrics["mean_iou"] <= 1


def test_evaluate_prints_every_class_and_writes_pictures(run, tmp_path, capsys):
    folder = tmp_path / "pictures"
    arguments = ["evaluate", str(run.workdir.path), "--split", "test"]
    assert cli.main([*arguments, "--overlays", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "mean intersection over union" in printed
    for name in ("road", "traffic light", "bicycle"):
        assert f"  {name} " in printed
    (sky,) = (line for line in printed.splitlines() if "  sky " in line)
    assert "does not occur" in sky
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"test_{i:04d}.png" for i in range(3)]
    colors, seen = palette(19), set()
    for file in files:
        image, labels, prediction = np.split(np.asarray(Image.open(file)), 3, axis=1)
        number = int(image[0, 0, 0])
        seen.add(number)
        np.testing.assert_array_equal(image, number)
        for row, found in ((7, 0), (8, 1), (13, 4)):
            expected = 255 * (0.5 * image[row] / 255 + 0.5 * colors[found])
            np.testing.assert_allclose(labels[row], expected, atol=1)
        np.testing.assert_array_equal(labels[0], number)
        assert (prediction != image).any()
    assert seen == {100, 101, 102}


def test_an_overlay_is_half_image_half_colors_but_where_labels_are_ignored():
    pixels = np.full((1, 3, 3), 0.2)
    colors = np.array([[1.0, 0, 0], [0, 1, 0]])
    found = overlay(pixels, np.array([[0, 1, data.IGNORE_LABEL]]), colors)
    expected = [[[0.6, 0.1, 0.1], [0.1, 0.6, 0.1], [0.2, 0.2, 0.2]]]
    np.testing.assert_allclose(found, expected)


def test_no_two_classes_have_colors_that_look_alike():
    colors = palette(19)
    distances = np.abs(colors[:, None] - colors[None]).max(axis=-1) + np.eye(19)
    assert distances.min() > 0.1
