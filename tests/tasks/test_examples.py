"""Made-up rows look like those of the data, and are there without them."""

from pathlib import Path

import jax
import numpy as np
import pytest

from deqjax.training import BatchOrder, load_experiment
from tiny import tiny_config, with_parts
from tiny_vision import tiny_vision

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def looks(tree):
    return jax.tree.map(lambda leaf: (np.shape(leaf), np.asarray(leaf).dtype), tree)


@pytest.mark.parametrize("kind", ["text", "images"])
def test_made_up_rows_look_like_those_of_the_data(kind, tmp_path):
    config = tiny_config(tmp_path) if kind == "text" else tiny_vision()
    task = config.task.opened(None)
    batch = next(task.data("train").train(BatchOrder(config.batch_size, 0, True)))
    made = task.example(config.batch_size)
    assert looks(made) == looks(batch.rows)
    assert jax.tree.structure(made) == jax.tree.structure(batch.rows)


@pytest.mark.parametrize(
    ("recipe", "shapes"),
    [
        ("language/wikitext103.py", [(2, 151), (2,), (2, 150)]),
        ("vision/imagenet_mdeq_small_regularized.py", [(2, 224, 224, 3), (2,)]),
        ("vision/cityscapes_mdeq_small.py", [(2, 512, 1024, 3), (2, 512, 1024)]),
    ],
)
def test_published_recipes_need_no_data_for_it(recipe, shapes):
    made = load_experiment(EXPERIMENTS / recipe).task.example(2)
    assert [np.shape(leaf) for leaf in jax.tree.leaves(made)] == shapes


def test_what_is_counted_in_the_data_cannot_be_made_up(tmp_path):
    assert tiny_config(tmp_path).task.example(2) is None
    images = with_parts(tiny_vision(), task__images__name="folder")
    assert images.task.example(2) is None
