"""Explicit, implicit and reversible models of equal size on Shakespeare, in one table.

Command:   python experiments/language/compare_tinyshakespeare.py FILE [--runs FOLDER]
Hardware:  two CPU cores, no GPU
Time:      about an hour; a folder with finished runs is only measured again, about 3 minutes
Expected:  see experiments/results/tinyshakespeare.json

Trains tinyshakespeare_explicit.py, tinyshakespeare.py without and with the penalty, and
tinyshakespeare_reversible.py, one seed each, on the text in FILE. Loss, forward steps, residual and
radius are those on the whole validation text. Step times are taken in turns after training, at the
trained parameters with both directions solved to 1e-2, and told as medians, with the backward solve
of that step; memory is XLA's plan for a training step. A reversible backward residual is the error
of the state that undoing all steps leads back to.
"""

import argparse
import dataclasses
import datetime
import json
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from deqjax import training
from deqjax._experiments import load_experiment
from deqjax.training import TrainConfig
from deqjax.training.loop import assemble
from deqjax.training.step import train_step
from deqjax.training.workdir import holds_run

HERE = Path(__file__).parent
NAME = "tinyshakespeare"
NANOGPT = 1.88
COLORS = {
    "explicit": "#555555",
    "DEQ, no penalty": "#D55E00",
    "DEQ, penalty": "#0072B2",
    "reversible DEQ": "#009E73",
}
ROWS = {
    "parameters": "{:,.0f}",
    "loss": "{:.4f}",
    "bigram_loss": "{:.4f}",
    "forward_steps": "{:.1f}",
    "forward_residual": "{:.1e}",
    "backward_steps": "{:.1f}",
    "backward_residual": "{:.1e}",
    "spectral_radius": "{:.2f}",
    "spectral_radius_max": "{:.2f}",
    "milliseconds_of_a_step": "{:.0f}",
    "MiB_of_a_step": "{:.0f}",
}


def experiments(file: Path, steps: int | None, seed: int) -> dict[str, TrainConfig]:
    """The four runs by name."""

    def load(name: str) -> TrainConfig:
        config = load_experiment(HERE / f"{name}.py")
        data = dataclasses.replace(config.data, file=str(file))
        return dataclasses.replace(config, data=data, seed=seed, steps=steps or config.steps)

    deq = load(NAME)
    without = dataclasses.replace(deq, penalty=dataclasses.replace(deq.penalty, weight=0.0))
    runs = [load(f"{NAME}_explicit"), without, deq, load(f"{NAME}_reversible")]
    return dict(zip(COLORS, runs, strict=True))


def measure_steps(runs: dict[str, training.Run], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds, planned bytes and backward solve of a training step at the end of each run.

    Both directions are solved to 1e-2 here. "DEQ, penalty" is timed with the penalty on every step
    and on none: what it costs at its probability is the mean of both.
    """
    steps, found = {}, {}
    for name, run in runs.items():
        penalty = run.config.penalty
        variants = {name: penalty}
        if name == "DEQ, penalty":
            variants = {
                "penalty off": dataclasses.replace(penalty, weight=0.0),
                "penalty on": dataclasses.replace(penalty, probability=1.0),
            }
        solver = dataclasses.replace(run.config.model.solver, tol=1e-2, backward_tol=1e-2)
        model = dataclasses.replace(run.config.model, solver=solver)
        config = dataclasses.replace(run.config, model=model)
        problem, _ = assemble(config, config.data.batch_size)
        batch = next(run.task.batches)
        for label, chosen in variants.items():
            own = problem._replace(penalty=chosen)

            def step(state, batch, own=own):
                return train_step(own, state, batch, 0, lambda tree: tree)[1]

            compiled = jax.jit(step).lower(run.state, batch).compile()
            metrics = compiled(run.state, batch)
            found[label] = {
                key: float(metrics[key])
                for key in ("backward_steps", "backward_residual")
                if jnp.isfinite(metrics[key])
            }
            found[label]["bytes"] = compiled.memory_analysis().temp_size_in_bytes
            steps[label] = (compiled, run.state, batch)
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    for _ in range(repeats):
        for label, (compiled, state, batch) in steps.items():
            started = time.perf_counter()
            jax.block_until_ready(compiled(state, batch))
            seconds[label].append(time.perf_counter() - started)
    for label, times in seconds.items():
        found[label]["seconds"] = statistics.median(times)
    return found


def with_steps(results, measured, probability: float) -> float:
    """Write what was measured into the results; return what the penalty adds, relatively."""
    off, on = measured["penalty off"], measured["penalty on"]
    extra = probability * (on["seconds"] / off["seconds"] - 1)
    measured["DEQ, penalty"] = on | {"seconds": off["seconds"] * (1 + extra)}
    for name, result in results.items():
        found = dict(measured[name])
        result["milliseconds_of_a_step"] = 1e3 * found.pop("seconds")
        result["MiB_of_a_step"] = found.pop("bytes") / 2**20
        result.update(found)
    return extra


def draw(curves: dict[str, list[dict]]) -> Figure:
    """Validation loss, steps and radius over training."""
    figure = Figure(figsize=(12, 3.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("tinyshakespeare, 2000 steps at nanoGPT's CPU budget, equal parameters")
    loss, residual, radius = figure.subplots(1, 3)
    for name, records in curves.items():
        for axes, key in (
            (loss, "loss"),
            (residual, "forward_residual"),
            (radius, "spectral_radius"),
        ):
            points = [(r["step"], r[key]) for r in records if key in r]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", ms=4, color=COLORS[name], label=name)
    loss.axhline(NANOGPT, color="#CC79A7", linestyle="--", linewidth=1, label="nanoGPT's figure")
    loss.set_ylabel("validation loss (nats per character)")
    loss.set_ylim(top=2.2)
    residual.set_ylabel("relative residual, validation (mean)")
    residual.set_ylim(bottom=0)
    residual.axhline(1e-2, color="#555555", linestyle=":", linewidth=1)
    radius.set_ylabel("spectral radius of the Jacobian (mean)")
    radius.axhline(1, color="#555555", linestyle="--", linewidth=1)
    radius.set_ylim(bottom=0)
    loss.legend(fontsize=9)
    for axes in (loss, residual, radius):
        axes.set_xlabel("training step")
        axes.grid(alpha=0.3)
    return figure


def show(results: dict[str, dict[str, float]], extra: float, probability: float) -> None:
    """Print the runs side by side."""
    table = Table(title="the whole validation text", title_justify="left")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for key, form in ROWS.items():
        cells = [form.format(r[key]) if key in r else "" for r in results.values()]
        table.add_row(key.replace("_", " "), *cells)
    Console(width=110).print(table)
    print(f"the penalty at probability {probability} adds {extra:.1%} to the step time")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained yet, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/tinyshakespeare"))
    parser.add_argument("--steps", type=int, default=None, help="default: the experiments'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results")
    options = parser.parse_args(arguments)

    configs = experiments(options.file, options.steps, options.seed)
    results, curves, runs = {}, {}, {}
    for name, config in configs.items():
        folder = options.runs / name.replace(" ", "_").replace(",", "")
        finished = holds_run(folder) and _last_step(folder) >= config.steps
        if not finished:
            training.train(config, folder, resume=holds_run(folder))
        records = training.read_metrics(folder / "metrics.jsonl")
        curves[name] = [r for r in records if r["split"] == "validation"]
        runs[name] = training.load_run(folder)
        results[name] = {k: v for k, v in curves[name][-1].items() if k not in ("step", "split")}
        size = sum(x.size for x in jax.tree.leaves(runs[name].state.weights.parameters))
        results[name]["parameters"] = size
    probability = configs["DEQ, penalty"].penalty.probability
    extra = with_steps(results, measure_steps(runs, options.repeats), probability)
    show(results, extra, probability)

    options.out.mkdir(parents=True, exist_ok=True)
    record = {
        "command": "python experiments/language/compare_tinyshakespeare.py FILE "
        f"--steps {configs['explicit'].steps} --seed {options.seed}",
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "flax", "optax", "deqjax")},
        },
        "penalty_adds_to_step_time": extra,
        "results": results,
        "validation_curves": curves,
    }
    (options.out / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(curves).savefig(options.out / f"{NAME}.png")


def _last_step(folder: Path) -> int:
    records = training.read_metrics(folder / "metrics.jsonl")
    return max((r["step"] for r in records if r["split"] == "validation"), default=0)


if __name__ == "__main__":
    main()
