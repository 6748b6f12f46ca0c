"""The comparison of prefix sums: its runs are the ones it names, and it counts whole strings."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from deqjax.models import ConvolutionalNetwork, RecallReasoner, RecallShape
from deqjax.training._config import check

ROOT = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("compare_prefix_sums")


def test_the_runs_differ_in_what_their_names_say(module):
    runs = module.experiments(seed=1, steps=5, data=None)
    for config in runs.values():
        check(config)
        assert (config.seed, config.steps) == (1, 5)
    weights = [config.penalty.weight + config.penalty.increment for config in runs.values()]
    assert weights.pop(list(runs).index("penalty")) > 0
    assert weights == [0, 0, 0]
    fixed = runs["fixed depth"].task
    assert fixed.network.solver.adjoint == "unrolled"
    assert (fixed.starts.carried, fixed.starts.random) == (0, 0)
    sizes = [_parameters(runs[name]) for name in ("recipe", "explicit")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def _parameters(config):
    model = config.task.opened({"tokens": 3, "board": [1, 32]}).model(nnx.Rngs(0))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_strings_are_counted_whole(module, monkeypatch):
    monkeypatch.setattr(module, "STEPS", (1, 4))
    tokens = jnp.array([[1, 2, 2], [2, 2, 1]])
    recall = RecallReasoner(RecallShape(tokens=3, width=4), rngs=nnx.Rngs(0))
    found = module.measure_iterated(recall, tokens, tokens)
    assert found["steps"] == [1, 4]
    state = recall.initial_states(2, 3)
    u = recall.cell.inputs(jnp.eye(3)[tokens])
    for _ in range(4):
        state = recall.cell(state, u)
    right = recall.head(state).argmax(-1) == tokens
    assert found["exact"][-1] == right.all(-1).mean()
    assert found["positions"][-1] == pytest.approx(float(right.mean()))
    assert -1 <= found["cosine"] <= 1
    explicit = ConvolutionalNetwork(RecallShape(tokens=3, width=4), rngs=nnx.Rngs(0))
    right = explicit(tokens).argmax(-1) == tokens
    assert module.measure_explicit(explicit, tokens, tokens)["exact"] == [right.all(-1).mean()]
