"""Does a network trained on 32 bits go on to 512? With and without what makes it path independent.

Command:   python experiments/compare_prefix_sums.py [--runs FOLDER] [--data FOLDER]
Hardware:  two CPU cores, no GPU
Time:      about 50 minutes; a folder with finished runs is only measured again, about 5 minutes
Expected:  see experiments/results/prefix_sums.json

Trains `reasoning/prefix_sums.py` as it is, with a Jacobian penalty that grows, its layer at a fixed
depth from zero as an ordinary recurrent network, and an explicit network of as many parameters;
each from several seeds. Then all answer strings of 32, 128 and 512 bits, iterated for longer and
longer: the share of strings whose every parity is right. Path independence is measured at the end:
the share of strings that get the same answer from zero and from random states, and the cosine of
the states that both lead to.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from side_by_side import provenance, trained

from deqjax.data import load_puzzles
from deqjax.models import ConvolutionalNetwork, RecallReasoner
from deqjax.training import PenaltyConfig, RunConfig, StepLimitConfig, load_experiment

HERE = Path(__file__).parent
NAMES = ("recipe", "penalty", "fixed depth", "explicit")
LENGTHS = (32, 128, 512)
STEPS = (8, 16, 32, 64, 128, 256, 512)
FIXED = 16
COLORS = {"recipe": "#0072B2", "penalty": "#E69F00", "fixed depth": "#009E73"}


def experiments(seed: int, steps: int | None, data: Path | None) -> dict[str, RunConfig]:
    """The four runs of a seed by name."""
    deq = load_experiment(HERE / "reasoning" / "prefix_sums.py")
    puzzles = dataclasses.replace(deq.task.puzzles, directory=None if data is None else str(data))
    task = dataclasses.replace(deq.task, puzzles=puzzles)
    deq = dataclasses.replace(deq, task=task, seed=seed, steps=steps or deq.steps)
    growing = PenaltyConfig(weight=0.0, increment=0.1, increment_every=500, probability=1.0)
    penalized = dataclasses.replace(deq, penalty=growing)
    solver = dataclasses.replace(task.network.solver, max_steps=FIXED, adjoint="unrolled")
    fixed = dataclasses.replace(
        deq,
        task=dataclasses.replace(
            task,
            network=dataclasses.replace(task.network, solver=solver),
            starts=dataclasses.replace(task.starts, carried=0.0, random=0.0),
        ),
        step_limit=StepLimitConfig(),
    )
    # 14 blocks of kernel 5 see 112 positions back, more than the training has
    shape = dataclasses.replace(task.network.shape, width=6, kernel=5, blocks=14)
    network = dataclasses.replace(task.network, kind="convolutional", shape=shape)
    explicit = dataclasses.replace(deq, task=dataclasses.replace(task, network=network))
    return dict(zip(NAMES, (deq, penalized, fixed, explicit), strict=True))


@functools.partial(jax.jit, static_argnums=0)
def iterated(graph, parameters, tokens, targets, state, steps):
    """So many more steps: the states, exact strings, positions and the residual there."""
    model = nnx.merge(graph, parameters, copy=True)
    u = model.cell.inputs(jax.nn.one_hot(tokens, model.shape.vocabulary))
    state = jax.lax.fori_loop(0, steps, lambda _, z: model.cell(z, u), state)
    right = model.head(state).argmax(-1) == targets
    change = jnp.linalg.norm(model.cell(state, u) - state, axis=(1, 2))
    residual = change / jnp.linalg.norm(state, axis=(1, 2))
    return state, right.all(-1).mean(), right.mean(), residual.mean()


def measure_iterated(model: RecallReasoner, tokens, targets) -> dict[str, object]:
    """Scores after more and more steps, and path independence at the end."""
    graph, parameters = nnx.split(model)
    rows, length = tokens.shape
    ends, found = [], {"steps": list(STEPS), "exact": [], "positions": [], "residual": []}
    for key in (None, jax.random.key(0)):
        state, before = model.initial_states(rows, length, key), 0
        for steps in STEPS:
            more = jnp.int32(steps - before)
            state, *scores = iterated(graph, parameters, tokens, targets, state, more)
            before = steps
            if key is None:
                for name, score in zip(("exact", "positions", "residual"), scores, strict=True):
                    found[name].append(float(score))
        ends.append(state)
    zero, drawn = ends
    answers = [model.head(end).argmax(-1) for end in ends]
    cosine = jnp.sum(zero * drawn, (1, 2)) / (
        jnp.linalg.norm(zero, axis=(1, 2)) * jnp.linalg.norm(drawn, axis=(1, 2))
    )
    return found | {
        "same_answer": float((answers[0] == answers[1]).all(-1).mean()),
        "cosine": float(cosine.mean()),
    }


def measure_explicit(model: ConvolutionalNetwork, tokens, targets) -> dict[str, object]:
    """Scores of the one answer that it has."""
    right = model(tokens).argmax(-1) == targets
    return {"exact": [float(right.all(-1).mean())], "positions": [float(right.mean())]}


def strings(length: int, count: int, data: Path | None) -> tuple[jax.Array, jax.Array]:
    """Test strings of a length, and their answers."""
    directory = None if data is None else str(data)
    found = load_puzzles("prefix_sums", size=length, count=10 * count, seed=1, directory=directory)
    arrays = found.arrays("test")
    return jnp.asarray(arrays["inputs"]), jnp.asarray(arrays["targets"])


def draw(results: dict[str, list[dict]]) -> Figure:
    """Exact strings against steps, a panel for each length; a line for each seed."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, len(LENGTHS), sharey=True)
    for panel, length in zip(panels, LENGTHS, strict=True):
        for name, color in COLORS.items():
            for seed, run in enumerate(results[name]):
                found = run[str(length)]
                label = name if seed == 0 else None
                panel.plot(
                    found["steps"], found["exact"], "o-", color=color, label=label, markersize=3
                )
        best = max(run[str(length)]["exact"][0] for run in results["explicit"])
        panel.axhline(best, color="#666666", linestyle=":", label="explicit, best seed")
        panel.set_xscale("log", base=2)
        panel.set_title(f"{length} bits" + (", as trained" if length == LENGTHS[0] else ""))
        panel.set_xlabel("steps")
    panels[0].set_ylabel("share of whole strings right")
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def show(results: dict[str, list[dict]]) -> None:
    """Print the scores after the last step, seed by seed."""
    table = Table(title=f"whole strings right after {STEPS[-1]} steps", title_justify="left")
    table.add_column("")
    for length in LENGTHS:
        table.add_column(f"{length} bits", justify="right")
    table.add_column(f"residual, {LENGTHS[-1]} bits", justify="right")
    table.add_column("same answer", justify="right")
    table.add_column("cosine", justify="right")
    for name, runs in results.items():
        last = [run[str(LENGTHS[-1])] for run in runs]
        exact = (" ".join(f"{run[str(n)]['exact'][-1]:.1%}" for run in runs) for n in LENGTHS)
        others = (
            " ".join(f"{found[key]:{form}}" for found in last if key in found)
            for key, form in (("same_answer", ".1%"), ("cosine", ".4f"))
        )
        residual = " ".join(f"{f['residual'][-1]:.1e}" for f in last if "residual" in f)
        table.add_row(name, *exact, residual, *others)
    Console(width=140).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained yet, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/prefix_sums"))
    parser.add_argument("--data", type=Path, default=None, help="of prepared data sets")
    parser.add_argument("--steps", type=int, default=None, help="default: the experiment's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strings", type=int, default=100, help="of each length")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)

    results: dict[str, list[dict]] = {name: [] for name in NAMES}
    tests = {length: strings(length, options.strings, options.data) for length in LENGTHS}
    for seed in range(options.seeds):
        configs = experiments(seed, options.steps, options.data)
        runs = trained(configs, options.runs / f"seed_{seed}")
        for name, (run, _) in runs.items():
            model = run.steps.problem.architecture.build(run.state.evaluated, train=False)
            measured = {}
            for length, (tokens, targets) in tests.items():
                explicit = isinstance(model, ConvolutionalNetwork)
                measure = measure_explicit if explicit else measure_iterated
                measured[str(length)] = measure(model, tokens, targets)
            sizes = [x.size for x in jax.tree.leaves(run.state.weights.parameters)]
            results[name].append(measured | {"seed": seed, "parameters": int(np.sum(sizes))})
    show(results)
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python experiments/compare_prefix_sums.py --seeds {options.seeds}"
    record = provenance(command) | {"strings": options.strings, "results": results}
    (options.out / "prefix_sums.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(results).savefig(options.out / "prefix_sums.png", dpi=150)


if __name__ == "__main__":
    main()
