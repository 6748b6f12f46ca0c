"""Explicit, implicit, Jacobian-free and reversible models of one size on CIFAR-10, in one table.

Command:   python experiments/compare_cifar10.py [--runs FOLDER]
Hardware:  two CPU cores, no GPU
Time:      at most 15 minutes a run, seven runs; finished runs are only measured again
Expected:  see experiments/results/cifar10.json
Data:      CIFAR-10, prepared by TFDS (the first run says how)

Every run sees the same 10,000 training images at 16 x 16 pixels, in the same number of steps, and
has a model of the same size: a ResNet, or a ResDEQ with implicit, Jacobian-free or reversible
gradients, each without and with the Jacobian penalty. Accuracy, forward steps, residual and radius
are those of the whole validation split. Step times are medians of steps taken in turns after
training; with a penalty, of steps with and without it in the proportion of its probability. Memory
is XLA's plan.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from side_by_side import Trained, Variant, print_columns, provenance, step_costs, trained

from deqjax import plot
from deqjax.data import Augmentation
from deqjax.models import ResidualShape, SolverSettings
from deqjax.tasks.vision import ImageNetwork, Images, VisionTask
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig

HERE = Path(__file__).parent
OFF = PenaltyConfig(weight=0.0)
ON = PenaltyConfig(weight=4.0, probability=0.25)
IMPLICIT = SolverSettings(max_steps=12, tol=1e-2, backward_max_steps=12, backward_tol=1e-2)
SOLVERS = {
    "implicit": IMPLICIT,
    "Jacobian-free": dataclasses.replace(IMPLICIT, adjoint="jacobian_free"),
    "reversible": SolverSettings(
        method="reversible", adjoint="reversible", damping=0.5, max_steps=5, tol=1e-2
    ),
}
ROWS = {
    "parameters": "{:,.0f}",
    "top1": "{:.2%}",
    "loss": "{:.4f}",
    "forward_steps": "{:.1f}",
    "forward_residual": "{:.1e}",
    "backward_steps": "{:.1f}",
    "backward_residual": "{:.1e}",
    "evaluations": "{:.0f}",
    "pull_backs": "{:.0f}",
    "spectral_radius": "{:.2f}",
    "spectral_radius_max": "{:.2f}",
    "milliseconds_of_a_step": "{:.0f}",
    "MiB_of_a_step": "{:.0f}",
}


def experiments(steps: int, seed: int, directory: str | None) -> dict[str, RunConfig]:
    """The seven runs by name."""
    shape = ResidualShape(channels=(32,), dropout=0.0)
    images = Images(
        name="cifar10",
        augmentation=Augmentation("crop_flip", padding=2),
        resolution=16,
        limit_train=10_000,
        limit_seed=seed,
        directory=directory,
    )

    def run(name: str, network: ImageNetwork, penalty: PenaltyConfig) -> RunConfig:
        return RunConfig(
            name=name,
            task=VisionTask(network=network, images=images),
            steps=steps,
            batch_size=64,
            seed=seed,
            log_every=20,
            checkpoint_every=200,
            optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=50, weight_decay=0.02),
            penalty=penalty,
            evaluation=EvaluationConfig(
                every=200, batches=16, final_batches=1_000, radius_batches=1
            ),
        )

    resnet = ImageNetwork(kind="resnet", residual=shape, depth=1)
    runs = {"explicit": run("explicit", resnet, OFF)}
    for name, solver in SOLVERS.items():
        network = ImageNetwork(kind="resdeq", residual=shape, solver=solver)
        runs[name] = run(name, network, OFF)
        runs[f"{name}, penalty"] = run(f"{name}_penalty", network, ON)
    return runs


def costs(runs: dict[str, Trained], repeats: int) -> dict[str, dict[str, float]]:
    """What a step of each run costs."""
    variants = {}
    for name, (run, _) in runs.items():
        penalty = run.config.penalty
        variants[name] = Variant(run, OFF)
        if penalty.weight:
            variants[f"{name}: always"] = Variant(
                run, dataclasses.replace(penalty, probability=1.0)
            )
    found = step_costs(variants, repeats)
    result = {}
    for name, (run, _) in runs.items():
        measured = dict(found[name])
        always = found.get(f"{name}: always")
        if always:
            share = run.config.penalty.probability
            measured["bytes"] = always["bytes"]
            measured["seconds"] += share * (always["seconds"] - measured["seconds"])
        result[name] = {
            "milliseconds_of_a_step": 1e3 * measured.pop("seconds"),
            "MiB_of_a_step": measured.pop("bytes") / 2**20,
            **measured,
        }
    return result


def evaluated(run: Trained, found: Mapping[str, float]) -> dict[str, float]:
    """How often a training step evaluates f and pulls back through it, by the mean steps."""
    network = run.run.config.task.network
    if not network.solves:
        return {}
    forward = found["forward_steps"]
    match network.solver.adjoint:
        case "reversible":  # two evaluations a step; undoing a step pulls back through both again
            return {"evaluations": 2 * (forward + 1), "pull_backs": 2 * forward}
        case "jacobian_free":
            return {"evaluations": forward + 1, "pull_backs": 1}
        case _:  # the last pull-back is the parameters'
            return {"evaluations": forward + 1, "pull_backs": found["backward_steps"] + 2}


def draw(curves: dict[str, list[dict]]) -> Figure:
    """Accuracy, residual and radius over training."""
    return plot.training_comparison(
        curves,
        title="CIFAR-10, 10,000 images at 16 x 16, models of equal size",
        metrics=("top1", "forward_residual", "spectral_radius"),
    )


def show(results: dict[str, dict[str, float]]) -> None:
    """Print the runs side by side."""
    print_columns("CIFAR-10, the whole validation split", ROWS, results, width=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained yet, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--directory", default=None, help="of the prepared data sets")
    parser.add_argument("--steps", type=int, default=1_200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)

    configs = experiments(options.steps, options.seed, options.directory)
    runs = trained(configs, options.runs)
    measured = costs(runs, options.repeats)
    results = {}
    for name, run in runs.items():
        found = run.result | measured[name]
        results[name] = found | evaluated(run, found)
    show(results)

    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python experiments/compare_cifar10.py --steps {options.steps} --seed {options.seed}"
    curves = {name: run.validation for name, run in runs.items()}
    record = provenance(command) | {"results": results, "validation_curves": curves}
    (options.out / "cifar10.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(curves).savefig(options.out / "cifar10.png")


if __name__ == "__main__":
    main()
