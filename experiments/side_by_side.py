"""What the comparisons share: runs trained once, costs of a step, where figures come from."""

import dataclasses
import datetime
import platform
import statistics
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from deqjax import training
from deqjax.training import PenaltyConfig, Run, RunConfig
from deqjax.training._run import assemble
from deqjax.training.step._update import train_step


class Trained(NamedTuple):
    """A finished run.

    Attributes:
        run: its parts, with the last state.
        validation: its records of validation, the last one on ``final_batches``.
    """

    run: Run
    validation: list[dict[str, Any]]

    @property
    def result(self) -> dict[str, float]:
        """The last scores, and the number of parameters."""
        scores = {k: v for k, v in self.validation[-1].items() if k not in ("step", "split")}
        size = sum(x.size for x in jax.tree.leaves(self.run.state.weights.parameters))
        return scores | {"parameters": size}


def trained(configs: Mapping[str, RunConfig], folder: Path) -> dict[str, Trained]:
    """Train runs one after the other, go on with them, or take them as they are if they finished.

    Args:
        configs: by the names of the runs, of which their folders have the letters.
        folder: for their folders.

    Raises:
        SystemExit: it was interrupted, or a run diverged.
    """
    places = {name: name.replace(" ", "_").replace(",", "") for name in configs}
    found = training.sweep({places[name]: config for name, config in configs.items()}, folder)
    if found.stopped_by is not None:
        raise SystemExit("interrupted; the next call goes on")
    if found.diverged:
        raise SystemExit(f"diverged: {', '.join(found.diverged)}")
    records = {run.folder.name: run.records for run in found.comparison.runs}
    return {
        name: Trained(
            training.load_run(folder / place),
            [dict(record) for record in records[place] if record["split"] == "validation"],
        )
        for name, place in places.items()
    }


class Variant(NamedTuple):
    """A training step to be measured.

    Attributes:
        run: whose parameters, statistics and data it takes.
        penalty: instead of the run's.
        tol: of both directions, instead of the run's; None is the run's.
    """

    run: Run
    penalty: PenaltyConfig
    tol: float | None = None


def step_costs(variants: Mapping[str, Variant], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds, planned bytes and backward solve of each step, taken in turns."""
    steps, found = {}, {}
    for label, (run, penalty, tol) in variants.items():
        task = run.task
        if tol is not None:
            network = task.network
            solver = dataclasses.replace(network.solver, tol=tol, backward_tol=tol)
            task = dataclasses.replace(task, network=dataclasses.replace(network, solver=solver))
        problem, _ = assemble(run.config, task)
        problem, batch = problem._replace(penalty=penalty), next(run.batches)

        def step(state, batch, problem=problem):
            after, metrics, _ = train_step(problem, state, batch)
            return after.weights, metrics

        compiled = jax.jit(step).lower(run.state, batch).compile()
        _, metrics = compiled(run.state, batch)
        found[label] = {
            name: float(metrics[name])
            for name in ("backward_steps", "backward_residual")
            if name in metrics and jnp.isfinite(metrics[name])
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


def print_columns(
    title: str,
    rows: Mapping[str, str],
    results: Mapping[str, Mapping[str, float]],
    *,
    width: int,
) -> None:
    """Print a table with a column for each run and a row for each figure, by its format."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for key, form in rows.items():
        cells = [form.format(r[key]) if key in r else "" for r in results.values()]
        table.add_row(key.replace("_", " "), *cells)
    Console(width=width).print(table)


def provenance(command: str) -> dict[str, Any]:
    """Command, date, device and versions, to stand beside figures."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "flax", "optax", "deqjax")},
        },
    }
