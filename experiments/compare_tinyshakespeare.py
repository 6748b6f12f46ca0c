"""Explicit, implicit, reversible and attractor models of equal size on Shakespeare, in one table.

Command:   python experiments/compare_tinyshakespeare.py FILE [--runs FOLDER]
Hardware:  two CPU cores, no GPU
Time:      about 90 minutes; a folder with finished runs is only measured again, about 3 minutes
Expected:  see experiments/results/tinyshakespeare.json

Trains `language/`'s tinyshakespeare_explicit.py, tinyshakespeare.py without and with the penalty,
tinyshakespeare_reversible.py, one seed each, and tinyshakespeare_attractor.py, on the text in FILE;
the explicit and the attractor model also from further seeds. Loss, forward steps,
residual and radius are those on the whole validation text. Step times are taken in turns after
training, at the trained parameters with both directions solved to 1e-2, and told as medians, with
the backward solve of that step; memory is XLA's plan for a training step. A reversible backward
residual is the error of the state that undoing all steps leads back to.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure
from side_by_side import Trained, Variant, print_columns, provenance, step_costs, trained

from deqjax import plot
from deqjax.training import RunConfig, load_experiment

HERE = Path(__file__).parent
NAME = "tinyshakespeare"
NANOGPT = 1.88
NAMES = ("explicit", "DEQ, no penalty", "DEQ, penalty", "reversible DEQ", "attractor")
SPREAD = ("explicit", "attractor")
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


def experiments(file: Path, steps: int | None, seed: int) -> dict[str, RunConfig]:
    """The five runs by name."""

    def load(name: str) -> RunConfig:
        config = load_experiment(HERE / "language" / f"{name}.py")
        text = dataclasses.replace(config.task.text, file=str(file))
        task = dataclasses.replace(config.task, text=text)
        return dataclasses.replace(config, task=task, seed=seed, steps=steps or config.steps)

    deq = load(NAME)
    without = dataclasses.replace(deq, penalty=dataclasses.replace(deq.penalty, weight=0.0))
    others = [load(f"{NAME}_{kind}") for kind in ("explicit", "reversible", "attractor")]
    return dict(zip(NAMES, [others[0], without, deq, *others[1:]], strict=True))


def spread(options: argparse.Namespace) -> dict[str, list[float]]:
    """The final losses of further seeds, by the runs' names."""
    losses: dict[str, list[float]] = {name: [] for name in SPREAD}
    for seed in range(options.seed + 1, options.seed + options.seeds):
        configs = experiments(options.file, options.steps, seed)
        runs = trained({name: configs[name] for name in SPREAD}, options.runs / f"seed_{seed}")
        for name, run in runs.items():
            losses[name].append(run.result["loss"])
    return losses


def measure_steps(runs: dict[str, Trained], repeats: int) -> dict[str, dict[str, float]]:
    """What a training step costs at the end of each run, both directions solved to 1e-2.

    "DEQ, penalty" is timed with the penalty on every step and on none: what it costs at its
    probability is the mean of both.
    """
    variants = {}
    for name, (run, _) in runs.items():
        penalty = run.config.penalty
        if name == "DEQ, penalty":
            off = dataclasses.replace(penalty, weight=0.0)
            on = dataclasses.replace(penalty, probability=1.0)
            variants["penalty off"] = Variant(run, off, tol=1e-2)
            variants["penalty on"] = Variant(run, on, tol=1e-2)
        else:
            variants[name] = Variant(run, penalty, tol=1e-2)
    return step_costs(variants, repeats)


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
    """Validation loss, residual and radius over training."""
    figure = plot.training_comparison(
        curves,
        title="tinyshakespeare, 2000 steps at nanoGPT's CPU budget, equal parameters",
        metrics=("loss", "forward_residual", "spectral_radius"),
    )
    loss = figure.axes[0]
    loss.axhline(NANOGPT, color="#CC79A7", linestyle="--", linewidth=1)
    loss.text(1.0, NANOGPT, "nanoGPT's figure", transform=loss.get_yaxis_transform(), ha="right")
    loss.set_ylabel("validation loss (nats per character)")
    return figure


def show(results: dict[str, dict[str, float]], extra: float, probability: float) -> None:
    """Print the runs side by side."""
    print_columns("the whole validation text", ROWS, results, width=110)
    print(f"the penalty at probability {probability} adds {extra:.1%} to the step time")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained yet, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/tinyshakespeare"))
    parser.add_argument("--steps", type=int, default=None, help="default: the experiments'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3, help="of the explicit and the attractor")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)

    configs = experiments(options.file, options.steps, options.seed)
    runs = trained(configs, options.runs)
    results = {name: run.result for name, run in runs.items()}
    curves = {name: run.validation for name, run in runs.items()}
    probability = configs["DEQ, penalty"].penalty.probability
    extra = with_steps(results, measure_steps(runs, options.repeats), probability)
    losses = spread(options)
    for name, more in losses.items():
        more.insert(0, results[name]["loss"])
    show(results, extra, probability)
    for name, values in losses.items():
        print(
            f"{name}: loss {mean(values):.4f} in the mean of {len(values)} seeds, from "
            f"{min(values):.4f} to {max(values):.4f}"
        )

    options.out.mkdir(parents=True, exist_ok=True)
    command = (
        "python experiments/compare_tinyshakespeare.py FILE "
        f"--steps {configs['explicit'].steps} --seed {options.seed} --seeds {options.seeds}"
    )
    record = provenance(command) | {
        "penalty_adds_to_step_time": extra,
        "losses_of_seeds": losses,
        "results": results,
        "validation_curves": curves,
    }
    (options.out / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(curves).savefig(options.out / f"{NAME}.png")


if __name__ == "__main__":
    main()
