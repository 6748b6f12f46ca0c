"""Sharded training beside one device: losses, bytes, collectives, processes, kills.

Command:   python experiments/benchmarks/sharded.py [--steps 30] [--kills 3] [--out FOLDER]
Hardware:  two CPU cores, no GPU; they are split into four virtual devices
Time:      about ten minutes, most of them starts of Python
Expected:  every loss equal to one device's to 1e-5, a quarter of the bytes, no collective inside a
           solve, and a killed run that ends in the same bits
           (experiments/results/sharded.json); exit status 0 says so

Each run is the real command line: text in streams with a memory, and digits with batch
normalizations; without dropout and penalty, whose random numbers belong to a device's number. The
reference is one device with the whole state. Beside it: four devices with a quarter each; two
groups of two devices, which share the work on a row; a run that goes from copies on two devices to
parts on four and back; and two processes with two devices each. The collectives are those of the
default experiment's step, as compiled.
"""

import argparse
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from children import (
    FAST_COMPILER,
    Child,
    command_line,
    end_cleanly_when_terminated,
    wait_until,
    wide_console,
)
from deqjax.training import Batch, read_metrics
from deqjax.training._run import assemble
from deqjax.training._workdir import Workdir, holds_run
from deqjax.training.devices import AXIS, ShardedParallel
from deqjax.training.estimate._limits import ONCE
from deqjax.training.estimate._program import read_program
from deqjax.training.estimate._traffic import traffic
from kill_resume import judge
from penalty_share import configuration
from timing import RESULTS, environment, save, verdict
from tiny_runs import as_words, image_run, text_run, write_text

DEVICES, LIMIT = 4, 900.0
TOLERANCE, BYTES = 1e-5, 1.05

# equal numbers on any devices: no draws, every step recorded, and rounding stays rounding (AdamW
# makes that of a small gradient as large as its step)
_PLAIN = {
    "penalty.weight": 0,
    "log-every": 1,
    "optimizer.kind": "sgd",
    "optimizer.learning-rate": 0.05,
    "optimizer.warmup-steps": 0,
    "optimizer.schedule": "constant",  # the other schedules are stretched by more steps
    "evaluation.every": 10**6,
}
_WITHOUT_DROPOUT = {"task.network.shape.dropout": 0}


def run(words: Sequence[str], folder: Path, options: dict[str, Any], processes: int = 1) -> None:
    """Train in child processes, from the beginning or on, until the end.

    Args:
        words: of the experiment.
        folder: of the run.
        options: further ones.
        processes: that train together.
    """
    command = ["train", *words, *as_words(options), "--workdir", str(folder)]
    if holds_run(folder):
        command.append("--resume")
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            command += ["--coordinator", f"127.0.0.1:{free.getsockname()[1]}"]
        command += ["--num-processes", str(processes)]
    with ExitStack() as stack:
        children = []
        for index in range(processes):
            own = [*command, "--process-id", str(index)] if processes > 1 else command
            log = folder.with_name(f"{folder.name}-{index}.log")
            children.append(stack.enter_context(Child(command_line(*own), log, FAST_COMPILER)))
        wait_until(lambda: all(child.status is not None for child in children), LIMIT)
        for child in children:
            if child.status != 0:
                raise SystemExit(f"status {child.status} of {folder}:\n{child.output()}")


def losses(folder: Path) -> np.ndarray:
    """(steps,) the loss of each step."""
    records = read_metrics(Workdir(folder).metrics)
    return np.array([record["loss"] for record in records if record["split"] == "train"])


def equality(steps: int, folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Each way of sharing the work, beside one device."""
    text = folder / "text.txt"
    write_text(text, seed=0)
    kinds = {
        "language": [*text_run(steps, folder, text), *as_words(_PLAIN | _WITHOUT_DROPOUT)],
        "vision": [*image_run(steps), *as_words(_PLAIN)],
    }
    four: dict[str, Any] = {"devices": DEVICES, "parallel": "sharded"}
    half, more = {"devices": 2}, steps // 3
    rows = []
    for kind, words in kinds.items():
        run(words, folder / f"{kind}-one", {"devices": 1})
        reference = losses(folder / f"{kind}-one")
        ways: dict[str, list[tuple[dict[str, Any], int]]] = {
            "sharded on 4": [(four, 1)],
            "sharded on 2 x 2": [(four | {"model-devices": 2}, 1)],
        }
        if kind == "language":
            ways["pmap on 2, sharded on 4, pmap on 2"] = [
                (half | {"steps": more}, 1),
                (four | {"steps": 2 * more}, 1),
                (half, 1),
            ]
            ways["sharded, 2 processes with 2"] = [(half | {"parallel": "sharded"}, 2)]
        for way, stages in ways.items():
            own = folder / f"{kind}-{len(rows)}"
            for options, processes in stages:
                run(words, own, options, processes)
            found = losses(own)
            error = float(np.max(np.abs(found / reference - 1)))
            rows.append({"model": kind, "devices": way, "steps": len(found), "error": error})
            say(f"{kind}, {way}: {len(found)} losses equal to {error:.1e}")
    return rows


def compiled_step(model_devices: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Bytes of a device, and the collectives of the default experiment's step."""
    config = configuration(quick=False)
    problem, state = assemble(config, config.task, axis_name=AXIS)
    rows = config.batch_size
    steps = ShardedParallel(
        problem,
        rows,
        state,
        model_devices=model_devices,
        rules=config.task.sharding(),
        devices=jax.local_devices()[:DEVICES],
    )
    placed = steps.place(state)
    leaves = jax.tree.leaves((placed.weights.parameters, placed.optimizer))
    of_device = max(
        sum(leaf.addressable_shards[index].data.nbytes for leaf in leaves)
        for index in range(DEVICES)
    )
    whole = sum(leaf.nbytes for leaf in leaves)
    batch = Batch(config.task.example(rows), np.ones(rows, bool))
    compiled = steps.steps.lowered(jax.eval_shape(lambda: state), batch).compile()
    listed = [
        {
            "name": each.kind,
            "part": each.part,
            "in_a_loop": each.looping,
            "count": round(each.number),
            "bytes": round(each.size),
        }
        for each in traffic(read_program(compiled.as_text()), ONCE).collectives()
    ]
    plan = compiled.memory_analysis()
    return {
        "whole": whole,
        "of_a_device": of_device,
        "share": of_device / whole,
        "temporary": plan.temp_size_in_bytes,
    }, listed


def goal(name: str, found: float, most: float) -> dict[str, Any]:
    """What was found beside the most that it may be."""
    return {"goal": name, "found": found, "most": most, "met": found <= most}


def show(rows: Sequence[dict[str, Any]], steps: dict[str, dict[str, Any]]) -> list[Table]:
    """The rows for the reader."""
    equal = Table(title="Losses beside one device's", title_justify="left")
    for heading in ("model", "devices", "steps", "largest relative difference"):
        equal.add_column(heading)
    for each in rows:
        equal.add_row(each["model"], each["devices"], str(each["steps"]), f"{each['error']:.1e}")
    program = Table(title="Collectives of the default experiment's step", title_justify="left")
    for heading in ("mesh", "collective", "part", "where", "count", "bytes"):
        program.add_column(heading)
    for mesh, step in steps.items():
        for each in step["collectives"]:
            where = "loop" if each["in_a_loop"] else "once"
            numbers = str(each["count"]), f"{each['bytes']:,}"
            program.add_row(mesh, each["name"], each["part"], where, *numbers)
    return [equal, program]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, compare, print, write; 0 if all is as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    end_cleanly_when_terminated()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    console = wide_console()
    steps = {}
    for name, model_devices in (("data 4", 1), ("data 2, model 2", 2)):
        held, listed = compiled_step(model_devices)
        steps[name] = {"bytes": held, "collectives": listed}
    with tempfile.TemporaryDirectory(prefix="sharded-") as place:
        folder = Path(place)
        rows = equality(options.steps, folder, console.print)
        text = text_run(90, folder, folder / "text.txt")
        fire = argparse.Namespace(devices=DEVICES, parallel="sharded", steps=90, seed=0)
        killed = judge("text", text, options.kills, (), fire, folder, console.print)
    for table in show(rows, steps):
        console.print(table)
    pure = steps["data 4"]
    looped = sum(each["count"] for each in pure["collectives"] if each["in_a_loop"])
    targets = [
        goal("largest relative difference of a loss", max(x["error"] for x in rows), TOLERANCE),
        goal("bytes of a device over a quarter", DEVICES * pure["bytes"]["share"], BYTES),
        goal("collectives inside loops, parameters divided over data alone", looped, 0),
        goal("killed runs that end in other bits", sum(not x["as_expected"] for x in killed), 0),
    ]
    for each in targets:
        console.print(f"{each['goal']}: {each['found']:.4g} (at most {each['most']}), ", end="")
        console.print(verdict(each["met"]))
    record = environment(("jax", "orbax-checkpoint", "flax", "optax", "deqjax"))
    found = {"equality": rows, "steps": steps, "killed": killed, "targets": targets}
    save(options.out, "sharded", record | found, None)
    return 0 if all(target["met"] for target in targets) else 1


if __name__ == "__main__":
    raise SystemExit(main())
