"""What a recipe needs: parameters, memory and arithmetic of a training step; and one real step.

Command:   python experiments/language/estimate.py [RECIPE ...] [--devices 8] [--step-batch 2]
Hardware:  any; two CPU cores and 16 GiB for the published recipes
Time:      about two minutes a recipe
Expected:  see experiments/results/wikitext103.json

Memory is XLA's own plan for the whole training step at the recipe's batch on one device, and on
each of ``--devices`` devices that share the batch: compiled for the CPU, never run. The arithmetic
is XLA's count for each part, times how often a step uses it at most: solves that stop at their
tolerance cost less. ``--step-batch N`` really takes one step on N rows of random tokens.
"""

import argparse
import datetime
import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from deqjax import jacobian_penalty
from deqjax._experiments import load_experiment
from deqjax.training import TrainConfig
from deqjax.training.loop import assemble
from deqjax.training.step import Batch, train_step

HERE = Path(__file__).parent
RECIPES = sorted(HERE.glob("wikitext103*.py"))
GIB, TERA = 2**30, 1e12


def batch_of(config: TrainConfig, rows: int) -> Batch:
    """A batch of random tokens."""
    shape = (rows, config.model.shape.length + 1)
    tokens = np.random.default_rng(0).integers(0, config.model.shape.vocabulary, shape)
    return Batch(tokens.astype(np.int32), np.zeros(rows, bool))


def take_step(problem, state, batch, *, pretraining=False):
    """One training step on one device."""
    return train_step(problem, state, batch, 0, lambda tree: tree, pretraining=pretraining)


def planned_memory(config: TrainConfig, rows: int) -> dict[str, float]:
    """GiB that a step on so many rows needs: what it keeps, and what it needs meanwhile."""
    problem, state = abstract(config, rows)
    step = jax.jit(lambda state, batch: take_step(problem, state, batch), donate_argnums=0)
    compiled = step.lower(state, batch_of(config, rows)).compile()
    plan = compiled.memory_analysis()
    return {
        "state": plan.argument_size_in_bytes / GIB,
        "temporary": plan.temp_size_in_bytes / GIB,
    }


def abstract(config: TrainConfig, rows: int):
    """Problem and state as shapes: a hundred million parameters take no memory here."""
    problems = []

    def build():
        problem, state = assemble(config, rows)
        problems.append(problem)
        return state

    state = jax.eval_shape(build)
    return problems[0], state


def floats(tree):
    """The leaves that have gradients."""
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def arithmetic(config: TrainConfig, rows: int) -> dict[str, float]:
    """FLOP of each part of a step for so many rows."""
    problem, state = abstract(config, rows)
    tokens = jax.ShapeDtypeStruct((rows, config.model.shape.length), jnp.int32)
    z = jax.ShapeDtypeStruct((*tokens.shape, config.model.shape.width), jnp.float32)

    def model(parameters):
        return problem.architecture.build(parameters, train=False)

    def prepare(parameters, tokens, memory):
        return model(parameters).inputs(tokens, memory)

    u = jax.eval_shape(prepare, state.parameters, tokens, state.memory)

    def f(z, u, parameters):
        return model(parameters).deq.cell(z, u)

    def pull(z, u, parameters, w):
        return jax.vjp(lambda z: f(z, u, parameters), z)[1](w)

    def pull_all(z, u, parameters, w):
        return floats(jax.vjp(lambda z, u: f(z, u, parameters), z, u)[1](w))

    def penalty(z, u, parameters):
        def value(u):
            return jacobian_penalty(f, z, u, parameters, key=jax.random.key(0))

        return floats(jax.grad(value, allow_int=True)(u))

    def softmax(z, tokens, parameters):
        def loss(z, parameters):
            return jnp.mean(model(parameters).negative_log_likelihood(z, tokens))

        return jax.grad(loss, argnums=(0, 1))(z, parameters)

    def count(function, *arguments):
        return float(jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"])

    parameters = state.parameters
    evaluation = count(f, z, u, parameters)
    return {
        "f": evaluation,
        "vjp": count(pull, z, u, parameters, z) - evaluation,
        "gradient": count(pull_all, z, u, parameters, z),
        "penalty": count(penalty, z, u, parameters),
        # backward costs about twice the forward pass
        "prepare": 3 * count(prepare, parameters, tokens, state.memory),
        "softmax": count(softmax, z, tokens, parameters),
    }


def flop_of_step(config: TrainConfig, parts: dict[str, float]) -> float:
    """FLOP of one training step, if every solve takes all of its steps."""
    solver = config.model.solver
    fixed = (
        parts["prepare"]
        + parts["softmax"]
        + config.penalty.probability * (parts["penalty"] if config.penalty.weight else 0.0)
    )
    if solver.method == "reversible":  # two evaluations a step, and two full vjps to undo it
        coupled = 2 * solver.max_steps
        return fixed + coupled * parts["f"] + coupled * parts["gradient"]
    forward = (solver.max_steps + 1) * parts["f"]
    return fixed + forward + (solver.backward_max_steps + 1) * parts["vjp"] + parts["gradient"]


def timed_step(config: TrainConfig, rows: int) -> dict[str, float]:
    """Really take one step; return its loss and seconds, compilation excluded."""
    problem, state = assemble(config, rows)
    step = jax.jit(lambda state, batch: take_step(problem, state, batch), donate_argnums=0)
    batch = batch_of(config, rows)
    compiled = step.lower(state, batch).compile()
    started = time.perf_counter()
    state, metrics = jax.block_until_ready(compiled(state, batch))
    seconds = time.perf_counter() - started
    return {"loss": float(metrics["loss"]), "seconds": seconds} | {
        name: float(metrics[name])
        for name in ("forward_steps", "forward_residual", "backward_steps", "backward_residual")
        if name in metrics
    }


def show(results: dict[str, dict]) -> None:
    """Print one column a recipe."""
    table = Table(title="published batch, one training step", title_justify="left")
    table.add_column("")
    for name in results:
        table.add_column(name.removeprefix("wikitext103").strip("_") or "plain", justify="right")
    rows = dict.fromkeys(row for result in results.values() for row in result)
    for row in rows:
        values = [result.get(row, "") for result in results.values()]
        if not any(isinstance(value, dict) for value in values):
            table.add_row(row, *(f"{x:,}" if isinstance(x, int) else _short(x) for x in values))
    Console(width=120).print(table)


def _short(value) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Estimate, run one step, print, write; recipes of earlier calls stay in the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", type=Path, default=RECIPES)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--step-batch", type=int, default=2, help="0 takes no step")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "wikitext103.json"
    results = json.loads(file.read_text())["results"] if file.exists() else {}
    for recipe in options.recipes:
        config = load_experiment(recipe)
        results[config.name] = estimate(config, options.devices)
        if options.step_batch:
            taken = timed_step(config, options.step_batch)
            label = f"step on {options.step_batch} rows: "
            results[config.name] |= {label + name: value for name, value in taken.items()}
        record = {
            "command": "python experiments/language/estimate.py",
            "date": datetime.date.today().isoformat(),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("jax", "flax", "optax", "deqjax")},
            },
            "results": results,
        }
        file.write_text(json.dumps(record, indent=1) + "\n")
    show(results)


def estimate(config: TrainConfig, devices: int) -> dict[str, float]:
    """What one training step of a recipe needs."""
    rows = config.data.batch_size
    state = abstract(config, 1)[1]
    parts = {name: flop * rows for name, flop in arithmetic(config, 1).items()}
    whole, shared = planned_memory(config, rows), planned_memory(config, -(-rows // devices))
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(state.parameters)),
        "rows of a batch": rows,
        "TFLOP of a step, at most": flop_of_step(config, parts) / TERA,
        "TFLOP of one evaluation of f": parts["f"] / TERA,
        "GiB on one device": whole["state"] + whole["temporary"],
        "of it parameters, Adam, memory": whole["state"],
        f"GiB on each of {devices} devices": shared["state"] + shared["temporary"],
        "TFLOP by part": {name: flop / TERA for name, flop in parts.items()},
    }


if __name__ == "__main__":
    main()
