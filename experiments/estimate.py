"""What a recipe needs: parameters, memory and arithmetic of a training step; and one real step.

Command:   python experiments/estimate.py RECIPE ... [--devices 8] [--step-batch 2]
Hardware:  any; two CPU cores and 16 GiB for the published recipes
Time:      about two minutes a recipe
Expected:  see experiments/results/recipes.json

Memory is XLA's own plan for the whole training step at the recipe's batch on one device, and on
each of ``--devices`` devices that share the batch: compiled for the CPU, never run. The arithmetic
is XLA's count for each part, times how often a step uses it at most: solves that stop at their
tolerance cost less. ``--step-batch N`` really takes one step on N rows of random data.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from side_by_side import provenance

from deqjax import jacobian_penalty
from deqjax.nn import DEQ
from deqjax.tasks.language import LanguageTask
from deqjax.tasks.language._batches import Segments
from deqjax.tasks.vision import Images, VisionTask
from deqjax.tasks.vision._batches import LabelledImages
from deqjax.training import Batch, RunConfig, load_experiment
from deqjax.training._run import assemble
from deqjax.training.step._forward import forward
from deqjax.training.step._update import train_step

HERE = Path(__file__).parent
GIB, TERA = 2**30, 1e12


def batch_of(config: RunConfig, rows: int) -> Any:
    """A batch of random tokens, or of random images with random labels."""
    rng, task, counted = np.random.default_rng(0), config.task, np.ones(rows, bool)
    if isinstance(task, LanguageTask):
        shape = task.network.shape
        tokens = rng.integers(0, shape.tokens, (rows, shape.length + 1))
        fresh, scored = np.zeros(rows, bool), np.ones((rows, shape.length), bool)
        return Batch(Segments(tokens.astype(np.int32), fresh, scored), counted)
    assert isinstance(task, VisionTask)
    size, shape = image_size(task.images), task.network.shape
    images = rng.normal(size=(rows, *size, shape.input_channels)).astype(np.float32)
    labels = rng.integers(0, shape.classes, (rows, *(size if task.network.segments else ())))
    return Batch(LabelledImages(images, labels.astype(np.int32)), counted)


def counted(config: RunConfig) -> RunConfig:
    """With the sizes that a recipe leaves to its data; the published ones need no data here."""
    shape = config.task.network.shape
    is_text = isinstance(config.task, LanguageTask)
    sizes = (shape.vocabulary,) if is_text else (shape.classes, shape.input_channels)
    if None not in sizes:
        return config
    return dataclasses.replace(config, task=config.task.opened(None))


def image_size(found: Images) -> tuple[int, int]:
    """Height and width of the training images after augmentation."""
    augmentation, side = found.augmentation, found.resolution
    match augmentation.kind:
        case "resized_crop":
            return augmentation.size, augmentation.size
        case "joint_scale_crop":
            return augmentation.crop
    side = side or {"digits": 8, "cifar10": 32}[found.name]
    return side, side


def take_step(problem, state, batch, *, pretraining=False):
    """One training step on one device."""
    return train_step(problem, state, batch, pretraining=pretraining)[:2]


def planned_memory(config: RunConfig, rows: int) -> dict[str, float]:
    """GiB that a step on so many rows needs: what it keeps, and what it needs meanwhile."""
    problem, state = abstract(on_rows(config, rows))
    step = jax.jit(lambda state, batch: take_step(problem, state, batch), donate_argnums=0)
    compiled = step.lower(state, batch_of(config, rows)).compile()
    plan = compiled.memory_analysis()
    return {
        "state": plan.argument_size_in_bytes / GIB,
        "temporary": plan.temp_size_in_bytes / GIB,
    }


def on_rows(config: RunConfig, rows: int) -> RunConfig:
    """The same with so many rows in a batch."""
    return dataclasses.replace(config, batch_size=rows)


def abstract(config: RunConfig):
    """Problem and state as shapes: a hundred million parameters take no memory here."""
    problems = []

    def build():
        problem, state = assemble(config, config.task)
        problems.append(problem)
        return state

    state = jax.eval_shape(build)
    return problems[0], state


def floats(tree):
    """The leaves that have gradients."""
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def arithmetic(config: RunConfig, rows: int) -> dict[str, float]:
    """FLOP of each part of a step for so many rows, summed over the equilibrium layers."""
    problem, state = abstract(on_rows(config, rows))
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch_of(config, rows)))

    def once(weights, batch, memory):
        model = problem.architecture.build(weights, train=False)
        return forward(problem, model, batch, memory, layers=1)

    def points(weights, batch, memory):
        return [(each.solution.value, each.u) for each in once(weights, batch, memory).solves]

    def applied_once(weights, batch, memory):
        """All that a step does once, in both directions, and each cell once."""

        def loss(weights):
            return once(weights, batch, memory).loss

        return floats(jax.grad(loss, allow_int=True)(weights))

    def count(function, *arguments):
        return float(jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"])

    parts = dict.fromkeys(("f", "vjp", "gradient", "penalty"), 0.0)
    weights = state.weights
    for index, (z, u) in enumerate(jax.eval_shape(points, weights, batch, state.memory)):

        def f(z, u, weights, index=index):
            return layers_of(problem.architecture.build(weights, train=False))[index].cell(z, u)

        def pull(z, u, weights, w, f=f):
            return jax.vjp(lambda z: f(z, u, weights), z)[1](w)

        def pull_all(z, u, weights, w, f=f):
            return floats(jax.vjp(lambda z, u: f(z, u, weights), z, u)[1](w))

        def penalty(z, u, weights, f=f):
            def value(u):
                return jacobian_penalty(f, z, u, weights, key=jax.random.key(0))

            return floats(jax.grad(value, allow_int=True)(u))

        evaluation = count(f, z, u, weights)
        parts["f"] += evaluation
        parts["vjp"] += count(pull, z, u, weights, z) - evaluation
        parts["gradient"] += count(pull_all, z, u, weights, z)
        parts["penalty"] += count(penalty, z, u, weights)
    whole = count(applied_once, weights, batch, state.memory)
    return parts | {"rest": whole - parts["gradient"]}


def layers_of(model) -> list[DEQ]:
    """The equilibrium layers of a model."""
    return [model.deq] if hasattr(model, "deq") else list(model.layers)


def flop_of_step(config: RunConfig, parts: dict[str, float]) -> float:
    """FLOP of one training step, if every solve takes all of its steps."""
    solver = config.task.network.solver
    fixed = parts["rest"] + config.penalty.probability * (
        parts["penalty"] if config.penalty.weight else 0.0
    )
    if solver.method == "reversible":  # two evaluations a step, and two full vjps to undo it
        coupled = 2 * solver.max_steps
        return fixed + coupled * parts["f"] + coupled * parts["gradient"]
    forward = (solver.max_steps + 1) * parts["f"]
    # the Jacobian-free gradient is the one pull-back that every rule ends with
    pulls = 0 if solver.adjoint == "jacobian_free" else solver.backward_max_steps + 1
    return fixed + forward + pulls * parts["vjp"] + parts["gradient"]


def timed_step(config: RunConfig, rows: int) -> dict[str, float]:
    """Really take one step; return its loss and seconds, compilation excluded."""
    problem, state = assemble(on_rows(config, rows), config.task)
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
        table.add_column(name, justify="right")
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
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--step-batch", type=int, default=2, help="0 takes no step")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "recipes.json"
    results = json.loads(file.read_text())["results"] if file.exists() else {}
    for recipe in options.recipes:
        config = counted(load_experiment(recipe))
        results[config.name] = estimate(config, options.devices)
        if options.step_batch:
            taken = timed_step(config, options.step_batch)
            label = f"step on {options.step_batch} rows: "
            results[config.name] |= {label + name: value for name, value in taken.items()}
        record = provenance("python experiments/estimate.py RECIPE ...") | {"results": results}
        file.write_text(json.dumps(record, indent=1) + "\n")
    show(results)


def estimate(config: RunConfig, devices: int) -> dict[str, float]:
    """What one training step of a recipe needs."""
    rows = config.batch_size
    state = abstract(config)[1]
    parts = {name: flop * rows for name, flop in arithmetic(config, 1).items()}
    whole, shared = planned_memory(config, rows), planned_memory(config, -(-rows // devices))
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(state.weights.parameters)),
        "rows of a batch": rows,
        "TFLOP of a step, at most": flop_of_step(config, parts) / TERA,
        "TFLOP of one evaluation of f": parts["f"] / TERA,
        "GiB on one device": whole["state"] + whole["temporary"],
        "of it parameters, optimizer state, memory": whole["state"],
        f"GiB on each of {devices} devices": shared["state"] + shared["temporary"],
        "TFLOP by part": {name: flop / TERA for name, flop in parts.items()},
    }


if __name__ == "__main__":
    main()
