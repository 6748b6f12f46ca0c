"""What Jacobian regularization buys: the default run with the penalty off and on.

Command:   python experiments/compare_penalty.py [--steps 400 --seed 0 --out experiments/results]
Hardware:  two CPU cores, no GPU
Time:      about 6 minutes
Expected:  see experiments/results/penalty_stdlib_lm.json

Trains experiments/stdlib_lm.py twice at equal seed and steps, prints both runs side by side, and
writes validation loss, residual and spectral radius with the curves as JSON and PNG.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from side_by_side import provenance

from deqjax import plot, training
from deqjax.training import load_experiment

NAME = "penalty_stdlib_lm"


def draw(curves: dict[str, list[dict]], title: str) -> Figure:
    """Validation loss, residual and spectral radius over training, one line per run."""
    metrics = ("loss", "forward_residual", "spectral_radius", "spectral_radius_max")
    return plot.training_comparison(curves, title=title, metrics=metrics)


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
    configs = {
        name: dataclasses.replace(base, penalty=dataclasses.replace(base.penalty, weight=weight))
        for name, weight in weights.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        found = training.sweep(configs, folder)
    if found.stopped_by is not None:
        raise SystemExit("interrupted")
    print(found.comparison)
    results = {run.name: run.figures.validation.values for run in found.comparison.runs}
    curves = {
        run.name: [record for record in run.records if record["split"] == "validation"]
        for run in found.comparison.runs
    }

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
