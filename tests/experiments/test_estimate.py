"""The estimate of what a recipe needs, at the smallest sizes."""

import dataclasses
import importlib
import sys

import pytest
from test_experiments import ROOT, small

from deqjax._experiments import load_experiment

pytestmark = pytest.mark.usefixtures("compile_fast")


@pytest.fixture
def estimate(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module("estimate")
    for name in ("estimate", "side_by_side"):
        sys.modules.pop(name, None)


def test_a_recipe_has_parameters_memory_and_arithmetic(estimate, tmp_path):
    config = load_experiment(ROOT / "language" / "wikitext103_regularized.py")
    found = estimate.estimate(small(config, tmp_path), devices=2)
    parts = found["TFLOP by part"]
    assert all(flop > 0 for flop in parts.values())
    assert parts["f"] < parts["gradient"] < parts["penalty"] * 2
    # 13 evaluations forward and 14 products backward, at the least
    assert found["TFLOP of a step, at most"] > 13 * parts["f"] + 14 * parts["vjp"]
    assert 0 < found["GiB on each of 2 devices"] < found["GiB on one device"]


def test_one_evaluation_costs_what_its_matrices_cost(estimate, tmp_path):
    """Two FLOP a weight and position; the attention's own share is small beside wide matrices."""
    config = small(load_experiment(ROOT / "language" / "wikitext103.py"), tmp_path)
    width, hidden, length = 64, 256, config.model.shape.length
    shape = dataclasses.replace(config.model.shape, width=width, hidden=hidden)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, shape=shape))
    weights = 4 * width**2 + 2 * width * hidden
    flop = estimate.arithmetic(config, rows=1)["f"]
    assert 2 * weights * length < flop < 2.5 * weights * length
