import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.models import AttractorShape
from deqjax.training import BatchOrder
from deqjax.training._config import check
from deqjax.training._experiments import load_experiment
from deqjax.training._run import assemble
from deqjax.training.step._evaluation import evaluate_step, radius_step
from deqjax.training.step._problem import SolveLimits
from deqjax.training.step._update import train_step
from tiny import tiny_config
from tiny_vision import tiny_vision

ROOT = Path(__file__).parents[2] / "experiments"
EXPERIMENTS = sorted(p for p in ROOT.rglob("*.py") if "def config(" in p.read_text())
# one of each kind of step: each compiles for seconds; stdlib_lm is trained in tests/cli/test_cli.py
STEPPED_ON_IMAGES = ("cifar10_mdeq_tiny", "cifar10_reversible")
STEPPED = (
    *STEPPED_ON_IMAGES,
    "attractor_140m",
    "tinyshakespeare_reversible",
    "wikitext103_preln_regularized",
)


def name(file):
    return file.stem


def small(config, data_directory):
    """The experiment with its own options at the smallest sizes, on the standard library."""
    own, tiny = config.task.network.shape, tiny_config(data_directory)
    sizes = {"vocabulary": 256, "length": 8, "width": 8, "heads": 2, "hidden": 16}
    if isinstance(own, AttractorShape):
        sizes |= {"prelude_layers": 1}
    else:
        sizes |= {
            "memory_length": min(own.memory_length, 6),
            "cutoffs": (100, 200, 250)[: len(own.cutoffs)],
            "divisor": min(own.divisor, 2),
        }
    shape = dataclasses.replace(own, **sizes)
    network = dataclasses.replace(config.task.network, shape=shape)
    return dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, network=network, text=tiny.task.text),
        steps=1,
        batch_size=tiny.batch_size,
        pretrain_steps=0,
        evaluation=tiny.evaluation,
    )


def small_images(config):
    """The experiment with its own options at the smallest sizes, on scikit-learn's digits."""
    tiny, own = tiny_vision(), config.task.network
    network = dataclasses.replace(
        own,
        mdeq=dataclasses.replace(
            own.mdeq,
            channels=(4,),  # more branches compile long, and are tested with the model
            head_channels=(2,),
            groups=2,
            expansion=1,
            final_channels=4,
            classes=10,
            input_channels=1,
            downsample_times=0,
        ),
        residual=dataclasses.replace(own.residual, channels=(4,), groups=2, input_channels=1),
    )
    # what a step does depends on the optimizer, the penalty and the solver, which stay
    return dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, network=network, images=tiny.task.images),
        steps=1,
        batch_size=tiny.batch_size,
        pretrain_steps=0,
        evaluation=dataclasses.replace(tiny.evaluation, final_batches=1, radius_batches=0),
    )


def test_there_are_experiments():
    assert set(STEPPED) <= set(map(name, EXPERIMENTS))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=name)
def test_experiment_states_command_hardware_time_and_expectation(file):
    header = file.read_text().split('"""')[1]
    for heading in ("Command:", "Hardware:", "Time:", "Expected:"):
        assert heading in header


@pytest.mark.parametrize("file", EXPERIMENTS, ids=name)
def test_experiment_is_a_config_that_can_work(file):
    config = load_experiment(file)
    check(config)
    assert config.name == file.stem


@pytest.fixture(scope="module")
def data_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")


@pytest.mark.parametrize("file", [f for f in EXPERIMENTS if f.stem in STEPPED], ids=name)
def test_experiment_takes_one_tiny_step_and_its_evaluation_traces(file, data_directory):
    """The loop around the steps is tested with the loop, and compiles as long again."""
    config = load_experiment(file)
    if name(file) in STEPPED_ON_IMAGES:
        config = small_images(config)
    else:
        config = small(config, data_directory)
    task = config.task.opened(None)
    problem, state = assemble(config, task)
    order = BatchOrder(config.batch_size, config.seed, config.order == "shuffled")
    batch = next(task.data("train").train(order))
    state, metrics, _ = jax.jit(partial(train_step, problem))(state, batch)
    assert state.step == 1
    assert np.isfinite(metrics["loss"])
    assert 0 < metrics["gradient_norm"] < np.inf
    limits = SolveLimits(jnp.float32(1e-3), jnp.int32(4))
    given = (state.weights, batch, state.memory, limits)
    scores, *_ = jax.eval_shape(partial(evaluate_step, problem), *given)
    assert {"loss", "forward_steps"} < scores.keys()
    radii, _ = jax.eval_shape(partial(radius_step, problem), *given, state.key)
    assert radii.shape == (config.batch_size,)


def count_parameters(name):
    (file,) = (file for file in EXPERIMENTS if file.stem == name)
    config = load_experiment(file)
    state = jax.eval_shape(lambda: assemble(config, config.task)[1])
    return sum(leaf.size for leaf in jax.tree.leaves(state.weights.parameters))


def test_the_published_model_has_its_published_size():
    """About 98 million (Bai, Koltun & Kolter, ICML 2021, table 1)."""
    assert round(count_parameters("wikitext103") / 1e6) == 98


def test_the_published_model_of_imagenet_has_its_published_size():
    """18 million (Bai, Koltun & Kolter, NeurIPS 2020, table 3)."""
    assert count_parameters("imagenet_mdeq_small_regularized") // 10**6 == 18


@pytest.mark.parametrize(("name", "millions"), [("140m", 134), ("370m", 362), ("770m", 772)])
def test_attractor_models_have_the_sizes_that_they_state(name, millions):
    """Those of 140, 370 and 770 million; where widths are ours, the header says what they make."""
    assert round(count_parameters(f"attractor_{name}") / 1e6) == millions


@pytest.mark.parametrize(
    "name",
    [
        "tinyshakespeare",
        "tinyshakespeare_explicit",
        "tinyshakespeare_reversible",
        "tinyshakespeare_attractor",
    ],
)
def test_shakespeare_models_keep_to_the_budget(name):
    assert 0.79e6 < count_parameters(name) <= 0.8e6
