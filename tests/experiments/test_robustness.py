"""The robustness table: its equations against known roots, its counts and its verdicts."""

import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """The scripts import each other by name, as they do when one of them is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def named(load):
    with jax.enable_x64(True):
        yield {problem.name: problem for problem in load("equations").problems()}


ROOTS = {
    "p1 rosenbrock": np.ones(10),
    "p2 powell_singular": np.zeros(4),
    "p4 wood": np.ones(4),
    "p5 helical_valley": [1, 0, 0],
    "p8 brown_almost_linear": np.ones(10),
    "p12 variably_dimensioned": np.ones(10),
    "p15 square_root": [1e-2, 50, 0, 1e-2],
    "p17 dennis_schnabel": [3, 0],
    "p20 double_root": [5],
    "p21 freudenstein_roth": [5, 4],
    "p22 boggs": [0, 1],
    "F2 identity": np.zeros(6),
    "F5 pressure_network": np.ones(4),
    "Ferraris-Tronconi, corner": [0.5, np.pi],
    "squares": np.arange(1, 9),
    "three unknowns": [0.5, 1, -np.pi / 6],
    "1 + 1 / z": [(1 + 5**0.5) / 2],
}


@pytest.mark.parametrize("name", ROOTS)
def test_known_roots(load, named, name):
    problem = named[name]
    root = jnp.asarray(ROOTS[name], float)
    assert root.shape == problem.start.shape
    value = load("equations").as_residual(problem)(root, problem.args)
    np.testing.assert_allclose(value, 0, atol=1e-13)


def test_there_are_problems_enough_and_none_twice(load):
    with jax.enable_x64(True):
        found = load("equations").problems()
    assert len({(problem.family, problem.name) for problem in found}) == len(found) >= 120
    assert all(problem.start.dtype == np.float64 for problem in found)


def test_integral_and_differences_have_the_same_solution(load, named):
    residual = load("equations").as_residual
    line, integral = named["line, 1.0"], named["integral, 1.0"]
    u = jnp.sin(jnp.linspace(0.1, 3, 32))
    # the Green's function inverts the second difference
    second = (
        residual(
            line,
        )(u, 1.0),
        residual(integral)(u, 1.0),
    )
    difference = 2 * jnp.eye(32) - jnp.eye(32, k=1) - jnp.eye(32, k=-1)
    np.testing.assert_allclose(second[0], difference @ second[1], atol=1e-12)


def test_jacobians_and_pulled_back_gradients_count_one_by_one(load):
    counter = load("counter").Counter()
    f = counter.counting(jnp.sin)
    x = jnp.arange(3.0)

    def spent(run):
        counter.count = 0
        jax.block_until_ready(jax.jit(run)(x))
        return counter.count

    assert spent(lambda x: f(f(x))) == 2
    assert spent(jax.jacfwd(f)) == 3
    assert spent(lambda x: jax.jvp(f, (x,), (x,))) == 2
    assert spent(lambda x: jax.vjp(f, x)[1](x)) == 1
    assert spent(lambda x: jax.lax.fori_loop(0, 5, lambda _, z: f(z), x)) == 5


def test_only_what_is_near_a_root_is_solved(load, named):
    is_root = load("attempts").Attempts().is_root
    problem = named["p21 freudenstein_roth"]
    assert is_root(problem, np.array([5.0, 4.0]))
    assert is_root(problem, np.array([5.0, 4 + 1e-6]))
    assert not is_root(problem, np.array([5.0, 4 + 1e-4]))
    assert not is_root(problem, np.array([11.4127790, -0.8968053]))  # a minimum of ||F||
    assert not is_root(problem, np.array([np.nan, 4.0]))
    # singular: Newton's method only halves the distance
    assert is_root(named["p20 double_root"], np.array([5 + 1e-6]))


@pytest.mark.usefixtures("compile_fast")
def test_the_table_counts_judges_and_keeps_others(load, tmp_path, capsys):
    main = load("robustness").main
    common = ["--quick", "--families", "SciPy", "--out", str(tmp_path)]
    main([*common, "--contenders", "scipy hybr"])
    main([*common, "--contenders", "deqjax picard"])
    assert (tmp_path / "robustness.png").stat().st_size < 300_000
    record = json.loads((tmp_path / "robustness.json").read_text())
    assert {"command", "date", "device", "versions"} < set(record)
    # z - F(z) = 0 at once for F2; -2 of F1 and F3 repel
    assert record["evaluations"]["deqjax picard"] == [None, 2, None]
    assert record["solved"] == {
        "deqjax picard": 1,
        "scipy hybr": 3,
        "best of deqjax": 1,
        "best of deqjax's defaults": 1,
    }
    missed = record["peer_needs_half_or_we_fail"]
    assert [(row["peer"], row["ours"]) for row in missed] == [("scipy hybr", None)] * 2
    assert "Solved with at most 200 evaluations" in capsys.readouterr().out


def test_unknown_names_are_told(load, tmp_path):
    with pytest.raises(SystemExit, match="no contender 'scipy newton': choose from"):
        load("robustness").main(["--contenders", "scipy newton", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="no family 'KINSOLE': choose from"):
        load("robustness").main(["--families", "KINSOLE", "--out", str(tmp_path)])
