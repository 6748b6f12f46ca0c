"""A run made of a model that was trained elsewhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax import training
from deqjax.models import MDEQ, ResNet, TransformerXL
from deqjax.training import adopt_model
from image_samples import cityscapes_example, write_prepared
from tiny import tiny_config, with_parts
from tiny_vision import tiny_vision

DIGITS = dataclasses.replace(tiny_vision("mdeq").task.network.mdeq, classes=10, input_channels=1)


@pytest.fixture(scope="module")
def adopted(tmp_path_factory, data_directory):
    config = tiny_config(data_directory)
    # another kind, depth and width than the config's: the model decides
    shape = dataclasses.replace(config.task.network.shape, width=12, heads=3, vocabulary=256)
    model = TransformerXL(shape, 1, rngs=nnx.Rngs(7))
    folder = tmp_path_factory.mktemp("adopted") / "run"
    adopt_model(model, config, folder)
    return model, folder


def test_the_run_holds_the_models_parameters(adopted):
    model, folder = adopted
    run = training.load_run(folder)
    expected = jax.tree.leaves(nnx.state(model, nnx.Param))
    found = jax.tree.leaves(run.state.weights.parameters)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert run.config.task.network.shape.width == 12


def test_it_trains_on(adopted):
    _, folder = adopted
    config = dataclasses.replace(training.load_run(folder).config, steps=1)
    outcome = training.train(config, folder, resume=True, say=lambda line: None)
    assert outcome.step == 1


def test_a_folder_with_a_run_is_refused(adopted):
    model, folder = adopted
    with pytest.raises(training.WorkdirError, match="already holds a run"):
        adopt_model(model, training.load_run(folder).config, folder)


def test_a_model_of_images_keeps_its_statistics(tmp_path):
    model = MDEQ(DIGITS, rngs=nnx.Rngs(3))
    for _, statistic in nnx.to_flat_state(nnx.state(model, nnx.BatchStat)):
        statistic[...] = jax.random.uniform(jax.random.key(statistic.size), statistic.shape)
    adopt_model(model, tiny_vision("resnet"), tmp_path / "run")
    run = training.load_run(tmp_path / "run")
    assert run.config.task.network.kind == "mdeq"
    for kind, found in zip((nnx.Param, nnx.BatchStat), run.state.weights, strict=True):
        expected = jax.tree.leaves(nnx.state(model, kind))
        for one, other in zip(jax.tree.leaves(found), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_run_gives_back_the_model_that_is_used(adopted):
    model, folder = adopted
    run = training.load_run(folder, 0)  # other tests train it on
    model.eval()
    tokens = jnp.arange(12).reshape(2, 6)
    np.testing.assert_allclose(run.model(tokens).states, model(tokens).states, rtol=1e-6)
    # where there is a moving average of the weights, that is what is used
    average = jax.tree.map(np.zeros_like, run.state.weights)
    averaged = dataclasses.replace(run, state=run.state._replace(average=average)).model
    assert not np.any(averaged(tokens).states)


def test_a_model_of_images_does_not_go_with_a_recipe_of_text(tmp_path, data_directory):
    shape = dataclasses.replace(tiny_vision().task.network.residual, classes=10, input_channels=1)
    model = ResNet(shape, 1, rngs=nnx.Rngs(0))
    with pytest.raises(training.ConfigError, match="not a ResNet"):
        adopt_model(model, tiny_config(data_directory), tmp_path / "run")
    with pytest.raises(training.ConfigError, match="adopts an MDEQ, not a ResNet"):
        adopt_model(model, tiny_vision(), tmp_path / "run")


def test_a_segmentation_starts_with_everything_of_a_classifier_but_its_head(tmp_path):
    recipe = tiny_vision("mdeq")
    wanted = dataclasses.replace(
        recipe.task.network.mdeq, task="segmentation", classes=19, input_channels=3, dropout=0.2
    )
    recipe = with_parts(
        recipe,
        task__network__mdeq=wanted,
        task__images__name="cityscapes",
        task__images__directory=str(tmp_path),
    )
    splits = {part: [cityscapes_example(i) for i in range(20)] for part in ("train", "validation")}
    splits["test"] = splits["train"][:1]
    write_prepared("cityscapes/semantic_segmentation", tmp_path, splits)
    shape = dataclasses.replace(DIGITS, channels=(4, 6), input_channels=3)
    model = MDEQ(shape, rngs=nnx.Rngs(3))
    adopt_model(model, recipe, tmp_path / "run")
    run = training.load_run(tmp_path / "run")
    assert run.config.task.network.mdeq == dataclasses.replace(wanted, channels=(4, 6))
    own = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    for path, leaf in nnx.to_flat_state(run.state.weights.parameters):
        if path[0] != "head":
            np.testing.assert_array_equal(leaf[...], own[path][...])
    build = run.steps.problem.architecture.build
    logits = jax.eval_shape(
        lambda weights: build(weights, train=False)(jnp.zeros((1, 8, 8, 3)), layers=1).logits,
        run.state.weights,
    )
    assert logits.shape == (1, 8, 8, 19)
