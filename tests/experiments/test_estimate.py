"""The estimate of what a recipe needs, at the smallest sizes."""

import dataclasses
import importlib
import sys

import pytest
from test_experiments import ROOT, small

from deqjax.training._experiments import load_experiment

WIDTH, HIDDEN = 64, 256


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Parts and memory are those of any solver: one that compiles fast stands in for the recipe's.

    So does a plain softmax. The width makes matrices cost more than all the rest.
    """
    recipe = load_experiment(ROOT / "language" / "wikitext103_regularized.py")
    found = small(recipe, tmp_path_factory.mktemp("datasets"))
    network = found.task.network
    shape = dataclasses.replace(
        network.shape,
        width=WIDTH,
        hidden=HIDDEN,
        cutoffs=(),
        divisor=1,
        tie_projections=(False,),
    )
    solver = dataclasses.replace(network.solver, method="picard", backward_method="picard")
    network = dataclasses.replace(network, shape=shape, solver=solver)
    return dataclasses.replace(found, task=dataclasses.replace(found.task, network=network))


@pytest.fixture(scope="module")
def found(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield importlib.import_module("estimate").estimate(config, devices=2)
    for name in ("estimate", "side_by_side"):
        sys.modules.pop(name, None)


def test_a_recipe_has_parameters_memory_and_arithmetic(found):
    parts = found["TFLOP by part"]
    assert all(flop > 0 for flop in parts.values())
    assert parts["f"] < parts["gradient"] < parts["penalty"] * 2
    # 13 evaluations forward and 14 products backward, at the least
    assert found["TFLOP of a step, at most"] > 13 * parts["f"] + 14 * parts["vjp"]
    assert 0 < found["GiB on each of 2 devices"] < found["GiB on one device"]


def test_one_evaluation_costs_what_its_matrices_cost(found, config):
    """Two FLOP a weight and position; the attention's own share is small beside wide matrices."""
    positions = config.batch_size * config.task.network.shape.length
    least = 2 * (4 * WIDTH**2 + 2 * WIDTH * HIDDEN) * positions
    assert least < found["TFLOP of one evaluation of f"] * 1e12 < 1.25 * least
