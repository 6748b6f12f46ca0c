"""The file of weights beside a notebook: what a run evaluates, and enough to build its model."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax import training
from deqjax.models import Reasoner, ReasonerShape
from deqjax.tasks.reasoning import Puzzles, ReasonerNetwork, ReasoningTask
from deqjax.training import PenaltyConfig, RunConfig
from deqjax.training._run import build

ROOT = Path(__file__).parents[2]
SHAPE = ReasonerShape(width=8, heads=2, layers=1, multiple=8, inner_steps=1)


@pytest.fixture
def script():
    file = ROOT / "experiments" / "reasoning" / "export_weights.py"
    spec = importlib.util.spec_from_file_location("export_weights", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    """What a run with a moving average is made of; the average is made another one."""
    config = RunConfig(
        name="tiny_reasoner",
        task=ReasoningTask(
            network=ReasonerNetwork(shape=SHAPE),
            puzzles=Puzzles("prefix_sums", size=8, count=16, directory=str(tmp_path)),
        ),
        average_decay=0.9,
        penalty=PenaltyConfig(weight=0.0),
    )
    run = build(config)
    average = jax.tree.map(lambda leaf: leaf + 0.25, run.state.average)
    return dataclasses.replace(run, state=run.state._replace(average=average))


def test_writes_the_moving_average_by_the_paths_of_parameters(script, run, tmp_path, monkeypatch):
    file = tmp_path / "weights.npz"
    monkeypatch.setattr(script, "load_run", lambda folder: run)
    monkeypatch.setattr("sys.argv", ["export_weights.py", "runs/tiny", str(file)])
    script.main()
    average = nnx.to_flat_state(nnx.state(run.model, nnx.Param))
    with np.load(file) as stored:
        assert set(stored) == {".".join(map(str, path)) for path, _ in average}
        for path, parameter in average:
            found = stored[".".join(map(str, path))]
            assert found.dtype == np.float16
            np.testing.assert_allclose(found, parameter[...], rtol=1e-3, atol=1e-7)
    assert np.load(file)["halting.bias"][0] == -4.75  # begins at -5


def test_refuses_what_half_precision_cannot_hold(script):
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    model.bias[...] = jnp.array([0.0, 1e6])
    with pytest.raises(ValueError, match="bias holds numbers that are too large for float16"):
        script.named_weights(model)


def test_the_notebooks_weights_are_those_of_its_recipe():
    recipe = training.load_experiment(ROOT / "experiments" / "reasoning" / "sudoku4.py")
    shape = recipe.task.network.shape
    model = nnx.eval_shape(
        lambda: Reasoner(dataclasses.replace(shape, tokens=6, board=(4, 4)), rngs=nnx.Rngs(0))
    )
    wanted = {
        ".".join(map(str, path)): leaf.shape
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    with np.load(ROOT / "notebooks" / "sudoku4_weights.npz") as stored:
        assert {name: stored[name].shape for name in stored} == wanted
