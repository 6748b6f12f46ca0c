"""The benchmarks' own logic on tiny cells; never a timing."""

import importlib
import json
import math
import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deqjax

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """The scripts import each other by name, as they do when one of them is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def record_of(folder, name):
    assert (folder / f"{name}.png").stat().st_size < 300_000
    record = json.loads((folder / f"{name}.json").read_text())
    assert {"command", "date", "device", "versions"} < set(record)
    return record


@pytest.mark.usefixtures("compile_fast")
def test_solver_benchmark_compares_counts_and_judges(load, tmp_path, capsys):
    arguments = ["--quick", "--cells", "matmul", "--peers", "jaxopt", "--out", str(tmp_path)]
    load("solvers").main(arguments)
    record = record_of(tmp_path, "solvers")
    rows = {row["contender"]: row for row in record["contenders"]}
    assert {"deqjax anderson", "jaxopt anderson", "jaxopt anderson vmapped"} <= set(rows)
    for row in rows.values():
        assert row["reached"]
        assert row["residual"] <= 1.01 * row["goal"]
    assert rows["jaxopt anderson"]["tuned"]
    assert not rows["deqjax anderson"]["tuned"]
    assert all(goal["met"] in (True, False) for goal in record["targets"])
    assert "solve / bare f at most" in capsys.readouterr().out


@pytest.mark.usefixtures("compile_fast")
def test_gradient_benchmark_covers_every_rule(load, tmp_path, capsys):
    arguments = ["--quick", "--cell", "matmul", "--max-steps", "2", "--out", str(tmp_path)]
    load("gradients").main([*arguments, "--sections", "rules", "backward", "compilation"])
    record = record_of(tmp_path, "gradients")
    names = {row["rule"].split("(")[0].split(",")[0] for row in record["rules"]}
    helpers = {"Adjoint", "BackwardStats", "backward_probe", "backward_steps"}
    helpers |= {"by_adjoint_state", "solve_forward"}
    assert names == {"backpropagation"} | set(deqjax.adjoints.__all__) - helpers
    assert all(row["temporary_bytes"] > 0 for row in record["rules"])
    assert record["backward"][0]["evaluations"] == 4
    assert "cold compilation" in capsys.readouterr().out


@pytest.mark.usefixtures("compile_fast")
def test_convolution_benchmark_compares_gradients_and_solves(load, tmp_path, capsys):
    chosen = ["--cells", "nnx.Conv", "--steps", "2", "--repeats", "1"]
    load("convolutions").main(["--quick", *chosen, "--out", str(tmp_path)])
    record = json.loads((tmp_path / "convolutions.json").read_text())
    assert {"command", "date", "device", "versions"} < set(record)
    assert [(row["cell"], row["solver"]) for row in record["rows"]] == [
        ("nnx.Conv", "deqjax"),
        ("nnx.Conv", "jaxopt"),
    ]
    assert all(row["ratio"] > 0 for row in record["rows"])
    assert "at most 3.5" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["lax, NCHW", "depthwise, NCHW", "stride 2, then transposed"])
def test_cells_of_the_convolution_benchmark_map_states_to_states(load, name):
    (cell,) = (c for c in load("convolutions").cells(2, 4, 4) if c.name == name)
    assert cell.f(cell.x, cell.weights, cell.x).shape == cell.x.shape


@pytest.mark.usefixtures("compile_fast")
def test_eager_benchmark_times_calls_and_weighs_them(load, tmp_path, capsys):
    load("eager").main(["--quick", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "eager.json").read_text())
    assert {"command", "date", "device", "versions"} < set(record)
    kinds = {row["call"].split(", ")[1] for row in record["calls"]}
    assert kinds == {"matmul", "DEQ"}
    for row in record["calls"]:
        assert row["first_ms"] > 0
        assert row["later_ms"] > 0
    assert record["memory"]["arrays_late"] <= record["memory"]["arrays_early"]
    assert "MiB at the end" in capsys.readouterr().out


def test_penalty_share_tells_penalized_steps_from_others(load, monkeypatch):
    module = load("penalty_share")
    real = module.train_step

    def traced_only(problem, state, windows):
        shapes = jax.eval_shape(partial(real, problem), state, windows)
        assert ("penalty" in shapes[1]) == (problem.penalty.weight > 0)
        key = jax.random.fold_in(state.key, state.step)
        has_penalty = jax.random.bernoulli(key, problem.penalty.probability)
        return state, {"penalty": jnp.where(has_penalty, 1.0, jnp.nan)}, None

    monkeypatch.setattr(module, "train_step", traced_only)
    share = module.penalty_share(quick=True, repeats=12)
    draws = [jax.random.fold_in(jax.random.key(0), step) for step in range(2, 14)]
    expected = sum(bool(jax.random.bernoulli(draw, 0.35)) for draw in draws)
    assert 0 < expected < 12
    assert share["penalized_steps"] == expected
    assert math.isfinite(share["share_sometimes"])


@pytest.mark.parametrize("name", ["matmul", "transformer", "mdeq"])
def test_cells_keep_samples_apart(load, name):
    cell = next(cell for cell in load("cells").quick() if cell.name == name)
    key = jax.random.key(1)
    z = jax.tree.map(lambda x: jax.random.normal(key, x.shape), cell.z0)
    f = jax.jit(cell.f)
    whole = f(z, cell.weights, cell.inputs)
    first_z, first_inputs = jax.tree.map(lambda x: x[:1], (z, cell.inputs))
    alone = f(first_z, cell.weights, first_inputs)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b[:1], rtol=1e-5, atol=1e-5)


def test_group_norm_normalizes_each_group(load):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    parts = np.asarray(load("cells").group_norm(x, 3)).reshape(2, 16, 3, 2)
    np.testing.assert_allclose(parts.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(parts.var((1, 3)), 1, atol=1e-3)


def test_counting_sees_what_is_computed(load):
    ticks = []
    f = load("runners").counting(lambda z: 0.5 * z, ticks)

    @jax.jit
    def program(z):
        f(z + 1)  # never used, so never computed
        z = lax.while_loop(lambda z: jnp.any(z > 1), f, z)
        value, tangent = jax.jvp(f, (z,), (jnp.ones_like(z),))
        return jax.vmap(f)(value) + tangent

    # 4 halvings of the largest, value and tangent, and all rows at once
    jax.block_until_ready(program(jnp.array([3.0, 16.0])))
    assert len(ticks) == 4 + 2 + 1


@pytest.mark.parametrize("factor", [1e-2, 1.0, 40.0])
def test_tuning_finds_the_loosest_tolerance(load, factor):
    def residual(tol):
        """A solver that gains a factor of 5 an iteration and measures itself by another norm."""
        return 5.0 ** math.floor(math.log(tol / factor, 5))

    tol = load("comparison").loosest_tolerance(residual, goal=1e-4)
    # 5^-6 is the largest residual below the goal, and 5^-5 the first tolerance to miss it
    assert 0.79 * factor * 5**-5 <= tol < factor * 5**-5


def test_tuning_gives_up_on_a_solver_that_stalls(load):
    tried = []

    def stalls(tol):
        tried.append(tol)
        return 0.1

    assert load("comparison").loosest_tolerance(stalls, 1e-4) == min(tried)
    assert len(tried) == 3


def test_a_peer_that_stalls_is_no_comparison(load):
    row = {
        "cell": "matmul",
        "goal": 1e-4,
        "evaluations": 10,
        "over_ours": 5.0,
        "last_only_checks": True,
    }
    ours = {**row, "contender": "deqjax anderson", "package": "deqjax", "reached": True}
    peer = {**row, "contender": "jaxopt anderson", "package": "jaxopt", "reached": False}
    judge = partial(load("solvers").targets, overheads=[])
    assert [goal["met"] for goal in judge([ours, peer])] == [None, None]
    assert [goal["met"] for goal in judge([ours, {**peer, "reached": True}])] == [True, True]
    slow = {**peer, "reached": True, "over_ours": 1.9, "evaluations": 9}
    assert [goal["met"] for goal in judge([ours, slow])] == [False, False]
    failed = {**ours, "reached": False}
    assert [goal["met"] for goal in judge([failed, {**peer, "reached": True}])] == [False, False]


def test_memory_is_judged_only_where_it_is_constant_by_design(load):
    def row(rule, max_steps, size, constant):
        return {
            "rule": rule,
            "max_steps": max_steps,
            "temporary_bytes": size,
            "constant_by_design": constant,
        }

    rows = [row("a", 100, 101, True), row("a", 10, 100, True), row("b", 10, 100, True)]
    rows += [row("b", 100, 110, True), row("c", 10, 1, False), row("c", 100, 10, False)]
    judged = load("gradients").flatness(rows)
    assert [found["met"] for found in judged] == [True, False, None]


def test_rounds_run_every_contender_once(load):
    calls = []
    runs = {name: partial(calls.append, name) for name in "abc"}
    seconds = load("timing").interleaved(runs, repeats=2)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2, "c": 2}
    rounds = [sorted(calls[start : start + 3]) for start in (0, 3, 6)]
    assert rounds == [["a", "b", "c"]] * 3


def test_the_precisions_are_compared_on_a_folder_of_cases(load, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # which the script adds to
    benchmark = load("mixed_precision")
    with pytest.raises(SystemExit):
        benchmark.main([str(tmp_path)])
    assert "holds no case of deq_transformer_*.npz" in capsys.readouterr().err

    weights = 0.1 * jax.random.normal(jax.random.key(0), (4, 4))
    z0 = jnp.zeros((2, 4))

    def cell_of(folder, name, dtype):
        del folder, name
        narrow = weights.astype(dtype)
        return lambda z: jnp.tanh((z.astype(dtype) @ narrow).astype(z.dtype) + 1), z0, z0

    monkeypatch.setattr(benchmark, "cell_of", cell_of)
    (tmp_path / "mdeq_any.npz").touch()
    benchmark.main([str(tmp_path), "--quick", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "mixed_precision.json").read_text())["cases"]["mdeq_any"]["rows"]
    assert set(rows) == {"float32", "mixed", "bfloat16"}
    assert rows["mixed"]["residual"] <= benchmark.TOL < rows["bfloat16"]["residual"]
    assert 0 < rows["mixed"]["low_evaluations"] < rows["mixed"]["evaluations"]
