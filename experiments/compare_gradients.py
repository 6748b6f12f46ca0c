"""Which gradient trains a reasoner best: at equal time, and at equal evaluations of its cycle?

Command:   python experiments/compare_gradients.py [--runs FOLDER] [--data FOLDER]
Hardware:  two CPU cores, no GPU
Time:      about 2 hours with 3 seeds and 0.8 minutes a run; a folder with finished runs is only
           measured again, about 15 minutes
Expected:  see experiments/results/sudoku4_gradients.json, of two seeds

Trains `reasoning/sudoku4.py` with each rule for the gradient of a pass of three cycles, without and
with the Jacobian penalty. Each run goes on to two budgets: so many minutes of training steps, and
so many evaluations of f, a cycle on the whole batch, as the published rule uses in these minutes.
What a step takes is measured after the first steps of seed 0, in turns, without compilation, data
and evaluation, and what a penalty adds to it with the published rule; pull-backs through a cycle
count as evaluations, and so do the two and two of a penalty. Scores are whole validation boards
that are right after three and after sixteen cycles of a run's own iteration, with the moving
average of its weights.

A pass of the reversible rule is three coupled steps of two evaluations each. It cannot be had with
noise; "truncated 1, noise 0" shows what that alone does. `check_gradient` compares each rule's
gradient of a pass with the one of the fixed point, at the start and at the end of seed 0; its
"distance" tells whether the pass came near that point, as it does not before training.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import jax.numpy as jnp
from gradient_truth import LOOKED_AT, against_truth
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from side_by_side import Variant, provenance, step_costs

from deqjax import training
from deqjax.training import DivergenceError, PenaltyConfig, RunConfig, load_experiment
from deqjax.training._run import build
from deqjax.training._workdir import Workdir, holds_run, saved_steps

HERE = Path(__file__).parent
NAME = "sudoku4_gradients"
RULES: dict[str, dict[str, Any]] = {
    "truncated 1": {},
    "truncated 1, noise 0": {},
    "truncated 2": {"backward_max_steps": 2},
    "Jacobian-free": {"adjoint": "jacobian_free"},
    "Neumann 3": {"adjoint": "neumann", "backward_max_steps": 3},
    "phantom 3": {"adjoint": "phantom", "backward_max_steps": 3},
    "implicit": {"adjoint": "implicit", "backward_max_steps": 8, "backward_tol": 1e-2},
    "reversible": {"adjoint": "reversible", "method": "reversible", "returns": "best"},
    "unrolled": {"adjoint": "unrolled"},
}
PUBLISHED = "truncated 1"
NOISELESS = ("truncated 1, noise 0", "reversible")
PENALTY = PenaltyConfig(weight=0.3, probability=1.0)
BUDGETS = ("time", "evaluations")
DEPTHS = (3, 16)
NEVER = 1_000_000


def experiments(seed: int, data: Path | None) -> dict[str, RunConfig]:
    """The runs of a seed by name; how many steps they make is still open."""
    base = load_experiment(HERE / "reasoning" / "sudoku4.py")
    puzzles = dataclasses.replace(base.task.puzzles, directory=None if data is None else str(data))
    evaluation = dataclasses.replace(base.evaluation, every=NEVER, final_batches=16)
    base = dataclasses.replace(
        base,
        seed=seed,
        batch_size=32,  # half of the recipe's: twice the steps in a short budget
        evaluation=evaluation,
        checkpoint_every=NEVER,
        keep_checkpoints=10,  # that of each budget is measured
    )
    runs = {}
    for name, changes in RULES.items():
        network = base.task.network
        network = dataclasses.replace(
            network, solver=dataclasses.replace(network.solver, **changes)
        )
        if name in NOISELESS:
            network = dataclasses.replace(
                network, shape=dataclasses.replace(network.shape, noise=0.0)
            )
        task = dataclasses.replace(base.task, network=network, puzzles=puzzles)
        runs[name] = dataclasses.replace(base, name=name, task=task)
        runs[penalized(name)] = dataclasses.replace(runs[name], penalty=PENALTY)
    return runs


def penalized(name: str) -> str:
    """The run of a rule that has the penalty."""
    return f"{name}, penalty"


def evaluations(config: RunConfig, backward_steps: float) -> float:
    """Evaluations of f and pull-backs through it in a training step, a penalty's with them."""
    solver = config.task.network.solver
    steps, terms = solver.max_steps, solver.backward_max_steps
    measured = steps + 1
    match solver.adjoint:
        case "truncated":
            found: float = measured + terms
        case "jacobian_free":
            found = measured + 1
        case "neumann":
            found = measured + terms
        case "phantom":  # its damped steps are evaluations of their own
            found = measured + 2 * terms
        case "implicit":  # the last pull-back is the parameters'
            found = measured + backward_steps + 2
        case "reversible":  # two evaluations a step; undoing it pulls back through both again
            found = 2 * measured + 2 * steps
        case _:
            found = measured + steps
    # a derivative along a probe is an evaluation beside its own, and both are pulled back through
    return found + (4 * config.penalty.probability if config.penalty.weight else 0)


def place_of(runs: Path, name: str, seed: int) -> Path:
    """The folder of a run."""
    return runs / f"{name.replace(' ', '_').replace(',', '')}_seed_{seed}"


def train_until(config: RunConfig, place: Path, steps: int) -> bool:
    """Train so far, unless that was done before; whether the run got there.

    Raises:
        SystemExit: it was interrupted.
    """
    if steps in saved_steps(Workdir(place).checkpoints):
        return True
    config = dataclasses.replace(config, steps=steps)
    try:
        outcome = training.train(config, place, resume=holds_run(place))
    except DivergenceError as error:
        print(f"{place.name} is given up: {error}")
        return False
    if outcome.stopped_by is not None:
        raise SystemExit("interrupted; the next call goes on")
    return True


def costs(runs: Path, data: Path | None, begun: int, repeats: int) -> dict[str, dict[str, float]]:
    """What a step of each run takes after the first steps of seed 0; measured once in a folder."""
    file = runs / "costs.json"
    if file.exists():
        return json.loads(file.read_text())
    variants = {}
    for name, config in experiments(0, data).items():
        place = place_of(runs, name, 0)
        if train_until(config, place, begun):
            run = training.load_run(place, begun)
            variants[name] = Variant(run, run.config.penalty)
    found = step_costs(variants, repeats)
    with_its_penalty(found)
    for name, cost in found.items():
        config = variants[name].run.config
        cost["evaluations"] = evaluations(config, cost.get("backward_steps", 0.0))
    file.write_text(json.dumps(found, indent=1) + "\n")
    return found


def with_its_penalty(found: dict[str, dict[str, float]]) -> None:
    """What the penalty adds is the published rule's for all: it is the same computation.

    Of a reversible solve that returns an early state, a step with the penalty can be the faster.
    """
    if penalized(PUBLISHED) not in found:
        return
    added = found[penalized(PUBLISHED)]["seconds"] - found[PUBLISHED]["seconds"]
    for name in found:
        if penalized(name) in found:
            found[penalized(name)]["seconds"] = found[name]["seconds"] + added


def planned(
    cost: Mapping[str, Mapping[str, float]], minutes: float, budget: float | None, least: int
) -> dict[str, dict[str, int]]:
    """The steps of each run, by budget; never fewer than were made to measure what they cost."""
    published = cost[PUBLISHED]
    if budget is None:
        budget = 60 * minutes / published["seconds"] * published["evaluations"]
    return {
        name: {
            "time": max(least, round(60 * minutes / each["seconds"])),
            "evaluations": max(least, round(budget / each["evaluations"])),
        }
        for name, each in cost.items()
    }


def scores(place: Path, steps: int) -> dict[str, Any]:
    """Whole boards and residual after each of the `DEPTHS`, and what the steps had done by then."""
    depths = training.sweep_depths(place, DEPTHS, checkpoint=steps)
    records = [
        record
        for record in training.read_metrics(Workdir(place).metrics)
        if record["split"] == "train" and record["step"] <= steps
    ]
    found: dict[str, Any] = {
        "exact": {str(each.depth): each.others["exact"] for each in depths},
        "residual": {str(each.depth): each.residual for each in depths},
        "training_exact": records[-1]["exact"],
    }
    if backward := [record["backward_steps"] for record in records if "backward_steps" in record]:
        found["backward_steps"] = mean(backward)
    if "penalty" in records[-1]:
        found["penalty"] = records[-1]["penalty"]
    return found


def checked(configs: Mapping[str, RunConfig], place: Path | None, count: int, steps: int) -> Any:
    """The rules of runs against the truth, all at the weights of the first of them.

    Args:
        configs: the runs, by name.
        place: folder of the first; None is before its first step.
        count: puzzles to compare.
        steps: of the truth, at most.
    """
    runs = {name: build(config) for name, config in configs.items()}
    first = next(iter(runs.values()))
    layers = {name: run.model.deq for name, run in runs.items()}
    model = first.model if place is None else training.load_run(place).model
    tokens = jnp.asarray(next(first.batches).rows["inputs"])[:LOOKED_AT]
    return against_truth(model, layers, tokens, count, steps)


def spread(values: Sequence[float]) -> str:
    """Mean and extremes of seeds, in percent."""
    if not values:
        return "diverged"
    text = f"{100 * mean(values):.1f}"
    return f"{text} ({100 * min(values):.0f}-{100 * max(values):.0f})" if values[1:] else text


def exact(result: Mapping[str, Any], budget: str, depth: int) -> list[float]:
    """Whole boards of the seeds that did not diverge."""
    return [seed["exact"][str(depth)] for seed in result["seeds"][budget]]


def angle(check: Mapping[str, Any], rule: str) -> float | None:
    """The cosine of a rule's gradient with the true one, where that is known."""
    return check["rules"][rule]["cosine"] if "rules" in check else None


def show(results: Mapping[str, Mapping[str, Any]], start: Mapping[str, Any]) -> None:
    """Print a line for each run."""
    title = (
        "whole boards right, %: mean (range) of the seeds, at equal time and at equal evaluations; "
        "gradient against the truth: cosine, relative error"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    budgets = [head for _ in BUDGETS for head in ("steps", *(f"{d} cycles" for d in DEPTHS))]
    for head in ("ms", "evaluations", *budgets, "at the start", "at the end"):
        table.add_column(head, justify="right")
    for name, result in results.items():
        cells = [f"{1e3 * result['seconds']:.0f}", f"{result['evaluations']:.1f}"]
        for budget in BUDGETS:
            cells.append(f"{result['steps'][budget]}")
            cells += [spread(exact(result, budget, depth)) for depth in DEPTHS]
        cells += [_told(start, result["rule"]), _told(result["check"], result["rule"])]
        table.add_row(name, *cells)
    Console(width=170).print(table)


def _told(check: Mapping[str, Any], rule: str) -> str:
    if "rules" not in check:
        return "no truth"
    row = check["rules"][rule]
    return f"{row['cosine']:.3f}, {row['relative_error']:.2g}"


def sentence(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What follows, from the means after the cycles of a training pass."""
    parts = []
    for budget in BUDGETS:
        means = {
            name: mean(values)
            for name, result in results.items()
            if (values := exact(result, budget, DEPTHS[0]))
        }
        best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        rival = max(exact(results[PUBLISHED], budget, DEPTHS[0]), default=0.0)
        beyond = min(exact(results[best], budget, DEPTHS[0])) > rival
        told = "best itself" if best == PUBLISHED else ("below" if beyond else "within its spread")
        parts.append(
            f"at equal {budget} {best} is right on {means[best]:.1%} of the boards after "
            f"{DEPTHS[0]} cycles, {worst} on {means[worst]:.1%}, and the published {PUBLISHED} "
            f"({means.get(PUBLISHED, 0):.1%}) is {told}"
        )
    told = "; ".join(parts)
    return f"{told[0].upper()}{told[1:]}."


def draw(results: Mapping[str, Mapping[str, Any]], start: Mapping[str, Any]) -> Figure:
    """Boards for each budget, and the cosine at the start and at the end; a row for each rule."""
    figure = Figure(figsize=(12, 0.42 * len(RULES) + 1.6), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    colors = dict(zip(DEPTHS, ("#0072B2", "#E69F00"), strict=True))
    rows = {rule: row for row, rule in enumerate(RULES)}
    for name, result in results.items():
        penalty = name != result["rule"]
        row = rows[result["rule"]] + (0.17 if penalty else -0.17)
        for panel, budget in zip(panels, BUDGETS, strict=False):
            for depth, color in colors.items():
                values = exact(result, budget, depth)
                style = {"facecolor": "none" if penalty else color, "edgecolor": color}
                panel.scatter(values, [row] * len(values), s=26, **style)
        ends = [angle(start, result["rule"]), angle(result["check"], result["rule"])]
        for value, marker in zip(ends, ("o", "s"), strict=True):
            if value is not None:
                filled = "none" if penalty else "#009E73"
                panels[2].scatter(
                    [value], [row], s=26, marker=marker, facecolor=filled, edgecolor="#009E73"
                )
    for panel, budget in zip(panels, BUDGETS, strict=False):
        panel.set_title(f"equal {budget}")
        panel.set_xlabel("share of whole boards right")
        panel.set_xlim(-0.03, 1.03)
    panels[2].set_title("gradient against the truth, seed 0")
    panels[2].set_xlabel("cosine (circle: start, square: end)")
    for panel in panels:
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_yticks(list(rows.values()), list(rows))
    panels[0].invert_yaxis()
    for depth, color in colors.items():
        panels[0].scatter([], [], s=26, color=color, label=f"{depth} cycles")
    panels[0].scatter([], [], s=26, facecolor="none", edgecolor="#666666", label="penalty")
    panels[0].legend(frameon=False, fontsize=8, loc="best")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained yet, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--data", type=Path, default=None, help="of prepared data sets")
    parser.add_argument("--minutes", type=float, default=0.8, help="of a run's training steps")
    parser.add_argument(
        "--evaluations", type=float, default=None, help="of a run; default: the published rule's"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--begun", type=int, default=100, help="steps before a step is timed")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--puzzles", type=int, default=4, help="of check_gradient")
    parser.add_argument("--truth-steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)

    options.runs.mkdir(parents=True, exist_ok=True)
    training.keep_compiled_programs(options.runs / "any")  # seeds and budgets share them
    cost = costs(options.runs, options.data, options.begun, options.repeats)
    plan = planned(cost, options.minutes, options.evaluations, options.begun)
    results: dict[str, dict[str, Any]] = {
        name: dict(cost[name])
        | {
            "rule": name.removesuffix(penalized("")),
            "steps": plan[name],
            "seeds": {budget: [] for budget in BUDGETS},
        }
        for name in plan
    }
    for seed in range(options.seeds):
        configs = experiments(seed, options.data)
        for name, result in results.items():
            place = place_of(options.runs, name, seed)
            for budget, steps in sorted(plan[name].items(), key=lambda item: item[1]):
                if train_until(configs[name], place, steps):
                    found = scores(place, steps) | {"seed": seed}
                    result["seeds"][budget].append(found)

    configs = experiments(0, options.data)
    look = {"count": options.puzzles, "steps": options.truth_steps}
    start = checked({name: configs[name] for name in RULES}, None, **look)
    for name, result in results.items():
        own = {result["rule"]: configs[name]}
        result["check"] = checked(own, place_of(options.runs, name, 0), **look)
    show(results, start)
    print(sentence(results))
    options.out.mkdir(parents=True, exist_ok=True)
    command = (
        f"python experiments/compare_gradients.py --minutes {options.minutes:g} "
        f"--seeds {options.seeds} --truth-steps {options.truth_steps}"
    )
    record = provenance(command) | {
        "penalty": dataclasses.asdict(PENALTY),
        "sentence": sentence(results),
        "start": start,
        "results": results,
    }
    (options.out / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(results, start).savefig(options.out / f"{NAME}.png", dpi=150)


if __name__ == "__main__":
    main()
