"""The comparison of gradients: its runs, what it counts, and what it makes of the scores."""

import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.diagnostics import TruthError
from deqjax.models import Reasoner, ReasonerShape, ReasonerStates
from deqjax.training._config import check

ROOT = Path(__file__).parents[2] / "experiments"
TINY = ReasonerShape(tokens=4, width=4, heads=1, layers=1, multiple=4, inner_steps=1, damping=0.3)


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("compare_gradients")


@pytest.fixture
def truth(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("gradient_truth")


def test_the_runs_differ_in_the_rule_its_noise_and_the_penalty_alone(module):
    runs = module.experiments(seed=1, data=None)
    assert len(runs) == 2 * len(module.RULES)
    published = runs[module.PUBLISHED]
    for name, config in runs.items():
        check(config)
        config.task.check()
        assert config.seed == 1
        assert (config.task.network.shape.noise == 0) == name.startswith(module.NOISELESS)
        assert bool(config.penalty.weight) == name.endswith("penalty")
        network = dataclasses.replace(
            config.task.network,
            solver=published.task.network.solver,
            shape=published.task.network.shape,
        )
        same = dataclasses.replace(
            config,
            name=published.name,
            task=dataclasses.replace(config.task, network=network),
            penalty=published.penalty,
        )
        assert same == published


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("truncated 1", 4 + 1),
        ("truncated 2", 4 + 2),
        ("Jacobian-free", 4 + 1),
        ("Neumann 3", 4 + 3),
        ("phantom 3", 4 + 3 + 3),
        ("implicit", 4 + 7 + 2),
        ("reversible", 8 + 6),
        ("unrolled", 4 + 3),
    ],
)
def test_evaluations_and_pull_backs_are_added(module, rule, expected):
    runs = module.experiments(seed=0, data=None)
    assert module.evaluations(runs[rule], 7.0) == expected
    assert module.evaluations(runs[module.penalized(rule)], 7.0) == expected + 4


@pytest.mark.parametrize(("rule", "pulled_back"), [("truncated 2", 2), ("reversible", 6)])
def test_forward_evaluations_are_those_that_a_pass_reports(module, rule, pulled_back, compile_fast):
    config = module.experiments(seed=0, data=None)[rule]
    model = Reasoner(TINY, config.task.network.solver, rngs=nnx.Rngs(0))

    @jax.jit
    def counted(states):
        return model(jnp.ones((1, 4), jnp.int32), states).equilibrium.solution.stats.evaluations

    states = ReasonerStates(*jnp.ones((2, 1, 4, 4)))
    assert module.evaluations(config, 0.0) == int(counted(states)) + pulled_back


def test_a_penalty_adds_what_it_adds_to_the_published_rule(module):
    found = {
        "truncated 1": {"seconds": 0.1},
        "truncated 1, penalty": {"seconds": 0.25},
        "reversible": {"seconds": 0.5},
        "reversible, penalty": {"seconds": 0.3},
    }
    module.with_its_penalty(found)
    assert found["truncated 1, penalty"]["seconds"] == pytest.approx(0.25)
    assert found["reversible, penalty"]["seconds"] == pytest.approx(0.65)


def test_budgets_become_steps(module):
    cost = {
        "truncated 1": {"seconds": 0.1, "evaluations": 5.0},
        "implicit": {"seconds": 0.3, "evaluations": 12.0},
        "slow": {"seconds": 9.0, "evaluations": 1000.0},
    }
    plan = module.planned(cost, minutes=1.0, budget=None, least=20)
    assert plan["truncated 1"] == {"time": 600, "evaluations": 600}
    assert plan["implicit"] == {"time": 200, "evaluations": 250}
    assert plan["slow"] == {"time": 20, "evaluations": 20}
    assert module.planned(cost, 1.0, 1200.0, 20)["implicit"]["evaluations"] == 100


def test_the_puzzles_that_converge_best_are_compared_by_passes_as_trained(
    truth, compile_fast, monkeypatch
):
    model = Reasoner(TINY, rngs=nnx.Rngs(0))
    layers = {"truncated": model.deq, "jacobian_free": model.thinking}
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 4, (3, 4)))
    begun = {}
    ours = truth._begun

    def begin(*args):
        begun["states"], _ = ours(*args)
        begun["residual"] = jnp.array([1e-2, 1e-6, 1e-4])  # such small ones do not differ
        return begun["states"], begun["residual"]

    def look(f, z, parameters, x, *, rules, **options):
        best = jnp.array([1, 2])
        assert jnp.array_equal(x, model.embed(tokens)[best])
        assert jnp.array_equal(z.high, begun["states"].high[best])
        cycle = model.deq.cell(z, x)
        assert jnp.allclose(f(z, parameters, x).high, cycle.high, atol=1e-6)
        for name, (solve, rule) in rules.items():
            assert rule is layers[name].adjoint
            solved = solve(lambda z: jax.tree.map(jnp.sin, z), z, tol=0.0, max_steps=77)
            assert int(solved.stats.steps[0]) == layers[name].max_steps
        known = {"cosine": 1.0, "norm_ratio": 1.0, "relative_error": 0.0, "distance": 0.0}
        rows = dict.fromkeys(rules, SimpleNamespace(**known))
        return SimpleNamespace(rows=rows, truth_residual=0.0)

    monkeypatch.setattr(truth, "_begun", begin)
    monkeypatch.setattr(truth, "check_gradient", look)
    found = truth.against_truth(model, layers, tokens, count=2, truth_steps=5)
    assert found["residual"] == pytest.approx(1e-4)
    assert found["rules"]["truncated"]["cosine"] == 1.0

    def no_truth(*_, **__):
        raise TruthError("none")

    monkeypatch.setattr(truth, "check_gradient", no_truth)
    found = truth.against_truth(model, layers, tokens, count=2, truth_steps=5)
    assert found["no_truth"] == "none"
    assert "rules" not in found


def _result(module, rule, three, sixteen, check):
    seeds = [{"exact": {"3": a, "16": b}} for a, b in zip(three, sixteen, strict=True)]
    return {
        "rule": rule,
        "seconds": 0.1,
        "evaluations": 5.0,
        "steps": dict.fromkeys(module.BUDGETS, 10),
        "seeds": dict.fromkeys(module.BUDGETS, seeds),
        "check": check,
    }


def test_the_sentence_names_the_best_and_says_whether_seeds_tell_them_apart(module, capsys):
    known = {"cosine": 0.5, "relative_error": 0.25}
    start = {"rules": {"truncated 1": known, "implicit": known}}
    results = {
        "truncated 1": _result(module, "truncated 1", [0.5, 0.6], [0.7, 0.7], start),
        "implicit": _result(module, "implicit", [0.65, 0.9], [0.9, 0.9], {"no_truth": "none"}),
        "implicit, penalty": _result(module, "implicit", [], [], {"no_truth": "none"}),
    }
    told = module.sentence(results)
    assert told.startswith("At equal time implicit is right on 77.5%")
    assert "(55.0%) is below" in told
    module.show(results, start)
    shown = capsys.readouterr().out
    assert "diverged" in shown
    assert "no truth" in shown
    panels = module.draw(results, start).axes
    assert len(panels) == 3
    cosines = [each.get_offsets() for each in panels[2].collections]
    assert len(cosines) == 4  # one start each, and the only end that is known
    close = _result(module, "implicit", [0.55, 0.9], [0.9, 0.9], start)
    assert "within its spread" in module.sentence(results | {"implicit": close})
