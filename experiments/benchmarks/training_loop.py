"""What the training loop costs beyond its compiled step, and what a second device gains.

Command:   python experiments/benchmarks/training_loop.py [--quick] [--rounds 3] [--out FOLDER]
Hardware:  two CPU cores, no GPU; they are split into two virtual devices
Time:      about eight minutes
Expected:  the loop takes at most 1.05 of its bare steps, and waits for no data
           (experiments/results/training_loop.json)

The default experiment, at equal global batch on one and on two virtual devices. The whole loop,
with its data, records, TensorBoard events and guards, takes turns in one process with bare steps on
batches that were made before. The penalty, which not all steps draw, is off for this. A checkpoint
is timed by itself: the part that the loop waits for.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from deqjax.training import (
    Checkpoints,
    PenaltyConfig,
    RunConfig,
    load_experiment,
    read_metrics,
    train,
)
from deqjax.training._run import Run, build
from timing import RESULTS, environment, save, verdict

OVERHEAD, WAITING = 1.05, 0.01
EXPERIMENT = Path(__file__).parents[1] / "stdlib_lm.py"


def experiment(quick: bool) -> RunConfig:
    """The default experiment without its penalty; records as often, no evaluation on the way."""
    config = load_experiment(EXPERIMENT)
    steps = 4 if quick else 40
    network, evaluation = config.task.network, config.evaluation
    if quick:
        shape = dataclasses.replace(network.shape, width=8, hidden=16, heads=2, length=8)
        solver = dataclasses.replace(network.solver, max_steps=3, backward_max_steps=3, history=2)
        network = dataclasses.replace(network, shape=shape, solver=solver)
        evaluation = dataclasses.replace(evaluation, final_batches=1, radius_batches=0)
    else:
        evaluation = dataclasses.replace(evaluation, final_batches=1, radius_batches=1)
    return dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, network=network),
        steps=steps,
        log_every=max(steps // 4, 1),
        checkpoint_every=10**6,
        penalty=PenaltyConfig(0.0),
        evaluation=dataclasses.replace(evaluation, every=10**6),
    )


def of_the_loop(config: RunConfig, devices: Sequence[jax.Device]) -> tuple[float, float]:
    """Seconds of a step within the loop, and the share of the time in which it waits for data."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(config, Path(folder) / "run", devices=devices, say=lambda line: None)
        records = [r for r in read_metrics(outcome.workdir.metrics) if r["split"] == "train"]
    # the first record has the compilation
    tokens = config.batch_size * config.task.network.shape.length
    seconds = statistics.median(tokens / r["tokens_per_second"] for r in records[1:])
    return seconds, max(r["data_wait"] for r in records[1:])


def bare(run: Run) -> float:
    """Seconds of a step that is only dispatched, one after the other; the same steps as the loop's.

    Solves take fewer steps the longer the model was trained: so from the same state, on the same
    data, timed by the same records.
    """
    run.batches.set_state({"next_index": 0})
    batches = [next(run.batches) for _ in range(run.config.steps)]
    state, seconds, started = run.steps.place(run.state), [], time.perf_counter()
    for step, batch in enumerate(batches, start=1):
        state, *_ = run.steps.train(state, batch)
        if step % run.config.log_every == 0:
            jax.block_until_ready(state)
            seconds.append((time.perf_counter() - started) / run.config.log_every)
            started = time.perf_counter()
    return statistics.median(seconds[1:])  # the first has the compilation


def of_a_checkpoint(run: Run) -> float:
    """Seconds that a save keeps the loop."""
    state = run.steps.place(run.state)
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        seconds = []
        for step in range(1, 4):
            started = time.perf_counter()
            checkpoints.save(step, run.steps.on_host(state), run.batches, {})
            seconds.append(time.perf_counter() - started)
            checkpoints.wait()
    return statistics.median(seconds)


def measure(quick: bool, rounds: int) -> dict[str, dict[str, float]]:
    """All figures for one and for two devices, whose rounds take turns."""
    config = experiment(quick)
    loops: dict[int, list[float]] = {1: [], 2: []}
    steps: dict[int, list[float]] = {1: [], 2: []}
    waits: dict[int, list[float]] = {1: [], 2: []}
    runs = {count: build(config, jax.local_devices()[:count]) for count in loops}
    for _ in range(rounds):
        for count, run in runs.items():
            seconds, wait = of_the_loop(config, jax.local_devices()[:count])
            loops[count].append(seconds)
            waits[count].append(wait)
            steps[count].append(bare(run))
    return {
        f"{count} device(s)": {
            "loop_ms": 1000 * statistics.median(loops[count]),
            "bare_ms": 1000 * statistics.median(steps[count]),
            "ratio": statistics.median(
                a / b for a, b in zip(loops[count], steps[count], strict=True)
            ),
            "data_wait": max(waits[count]),
            "checkpoint_ms": 1000 * of_a_checkpoint(runs[count]),
        }
        for count in loops
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    jax.config.update("jax_num_cpu_devices", 2)
    measured = measure(options.quick, options.rounds)
    for name, found in measured.items():
        print(name)
        for quantity, value in found.items():
            print(f"  {quantity:16} {value:10.4g}")
    one, two = measured["1 device(s)"], measured["2 device(s)"]
    gain = one["bare_ms"] / two["bare_ms"]
    print(f"two devices do {gain:.2f} times the steps of one")
    overhead = max(one["ratio"], two["ratio"])
    waiting = max(one["data_wait"], two["data_wait"])
    print(f"loop: {verdict(overhead <= OVERHEAD)} (at most {OVERHEAD})")
    print(f"data: {verdict(waiting <= WAITING)} (waits at most {WAITING:.0%})")
    record = environment(("jax", "flax", "deqjax"))
    save(options.out, "training_loop", record | {"measured": measured, "gain": gain}, None)


if __name__ == "__main__":
    main()
