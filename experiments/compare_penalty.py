"""What Jacobian regularization buys: the default run with the penalty off and on.

Command:   python experiments/compare_penalty.py [--steps 400 --seed 0 --out experiments/results]
Hardware:  two CPU cores, no GPU
Time:      about 6 minutes
Expected:  see experiments/results/penalty_stdlib_lm.json

Trains experiments/stdlib_lm.py twice at equal seed and steps, prints validation loss, residual and
spectral radius of both runs side by side, and writes them with the curves as JSON and PNG.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from side_by_side import provenance

from deqjax import plot, training
from deqjax.training import load_experiment

NAME = "penalty_stdlib_lm"
ROWS = {
    "bits_per_byte": "validation bits per byte",
    "bigram_bits_per_byte": "bigram model, same bytes",
    "forward_steps": "solver steps, mean",
    "forward_residual": "validation residual, mean",
    "spectral_radius": "spectral radius, mean",
    "spectral_radius_max": "spectral radius, largest",
}


def draw(curves: dict[str, list[dict]], title: str) -> Figure:
    """Validation loss, residual and spectral radius over training, one line per run."""
    metrics = ("loss", "forward_residual", "spectral_radius", "spectral_radius_max")
    return plot.training_comparison(curves, title=title, metrics=metrics)


def show(results: dict[str, dict[str, float]]) -> None:
    """Print both runs side by side."""
    table = Table(title="the same run, penalty off and on", title_justify="left")
    table.add_column("measured on validation text")
    for name in results:
        table.add_column(name, justify="right")
    for key, label in ROWS.items():
        table.add_row(label, *(f"{metrics[key]:.4g}" for metrics in results.values()))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=None, help="default: the experiment's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)

    base = load_experiment(Path(__file__).parent / "stdlib_lm.py")
    base = dataclasses.replace(base, seed=options.seed, steps=options.steps or base.steps)
    weights = {"penalty off": 0.0, "penalty on": base.penalty.weight}
    results, curves = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, weight in weights.items():
            penalty = dataclasses.replace(base.penalty, weight=weight)
            config = dataclasses.replace(base, penalty=penalty)
            outcome = training.train(config, Path(folder) / name.replace(" ", "_"))
            if outcome.metrics is None:
                raise SystemExit("interrupted")
            results[name] = outcome.metrics
            records = training.read_metrics(outcome.workdir.metrics)
            curves[name] = [r for r in records if r["split"] == "validation"]
    show(results)

    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python experiments/compare_penalty.py --steps {base.steps} --seed {base.seed}"
    record = provenance(command) | {
        "penalty": dataclasses.asdict(base.penalty),
        "results": results,
        "validation_curves": curves,
    }
    (options.out / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n")
    figure = draw(curves, f"{base.name}: Jacobian penalty off and on, seed {base.seed}")
    figure.savefig(options.out / f"{NAME}.png")


if __name__ == "__main__":
    main()
