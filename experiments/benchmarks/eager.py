"""What a solve takes where people explore: without jit, at the first call and at later ones.

Command:   python experiments/benchmarks/eager.py [--repeats 15 --calls 10000
           --out experiments/results --quick]
Hardware:  any; the published figures name theirs
Time:      about five minutes on two CPU cores, half of it the calls that measure memory
Expected:  see experiments/results/eager.json
Peers:     pip install -e '.[peers]' (Banax on Python >= 3.12 alone); what does not import
           is left out

Each call is a new function with new weights and inputs, as in a notebook's cell that is run again.
The arithmetic is tiny, so that the time is the time to trace, look up and dispatch; a peer that
compiles again at each call shows it. Memory is that of the process over many gradients.
"""

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import deqjax
import deqjax.nn
from cells import Cell, matmul_cell, transformer_cell
from contenders import available
from timing import RESULTS, environment, milliseconds, save, verdict

PEERS = ("jaxopt", "banax")
MOST_MS = 50.0
Call = Callable[[float], Any]


class TanhCell(nnx.Module):
    """One linear map and tanh."""

    def __init__(self, width: int) -> None:
        start = nnx.initializers.normal(0.1)
        self.linear = nnx.Linear(width, width, kernel_init=start, rngs=nnx.Rngs(0))

    def __call__(self, z: jax.Array, u: jax.Array) -> jax.Array:
        """Return the next state."""
        return jnp.tanh(self.linear(z) + u)


def calls(quick: bool) -> dict[str, Call]:
    """Name -> a call at some scale of the weights or of the inputs."""
    found, missing = available(() if quick else PEERS)
    for package, reason in missing.items():
        print(f"{package} is left out: {reason}")
    made: dict[str, Call] = {}
    small = [matmul_cell(batch=8, width=16)]
    small += [] if quick else [transformer_cell(batch=2, length=8, width=16, heads=2, hidden=32)]
    for contender in found:
        if contender.method == "anderson":
            for cell in small:
                value, gradient = _calls_of(contender.solve, cell)
                made[f"{contender.package}, {cell.name}, value"] = value
                made[f"{contender.package}, {cell.name}, gradient"] = gradient
    deq, u = deqjax.nn.DEQ(TanhCell(16)), jnp.ones((8, 16))
    made["deqjax, DEQ, value"] = lambda scale: deq(scale * u).value
    made["deqjax, DEQ, gradient"] = lambda scale: nnx.grad(lambda m, u: m(u).value.sum())(
        deq, scale * u
    )
    return made


def _calls_of(solve: Callable[..., Any], cell: Cell) -> tuple[Call, Call]:
    def value(scale: float, weights: Any = None) -> Any:
        def f(z: Any, weights: Any, inputs: Any) -> Any:  # new in each call
            return cell.f(z, weights, inputs)

        weights = jax.tree.map(lambda w: scale * w, cell.weights) if weights is None else weights
        return solve(f, weights, cell.inputs, cell.z0, cell.tol)

    def gradient(scale: float) -> Any:
        weights = jax.tree.map(lambda w: scale * w, cell.weights)
        return jax.grad(lambda weights: value(scale, weights).sum())(weights)

    return value, gradient


def timed(call: Call, repeats: int) -> dict[str, float]:
    """The first call's milliseconds, and the medians of those after the second."""
    seconds, busy = [], []
    for index in range(repeats + 2):
        scale = 0.5 + 0.01 * index
        start, start_busy = time.perf_counter(), time.process_time()
        jax.block_until_ready(call(scale))
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - start_busy)
    return {
        "first_ms": 1e3 * seconds[0],
        "later_ms": milliseconds(seconds[2:]),
        "later_cpu_ms": milliseconds(busy[2:]),  # where others use the machine too, the fairer one
    }


def memory(call: Call, count: int) -> dict[str, float]:
    """What the process holds after the first tenth of the calls and at their end."""
    held = []
    for index in range(count):
        call(0.5 + index / (2 * count))
        if index + 1 in (count // 10, count):
            gc.collect()
            held.append((_resident_mib(), len(jax.live_arrays())))
    (early, arrays), (late, more_arrays) = held
    return {
        "calls": count,
        "mib_early": early,
        "mib_late": late,
        "arrays_early": arrays,
        "arrays_late": more_arrays,
    }


def _resident_mib() -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return sizes[0] / 1024 if sizes else float("nan")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    repeats, count = (1, 20) if options.quick else (options.repeats, options.calls)

    made, rows = calls(options.quick), []
    for name, call in made.items():
        row = {"call": name, **timed(call, repeats)}
        row["met"] = row["later_ms"] <= MOST_MS if name.startswith("deqjax") else None
        rows.append(row)
        word = "" if row["met"] is None else f" (at most {MOST_MS:.0f}: {verdict(row['met'])})"
        print(
            f"{name:32s} first call {row['first_ms']:7.0f} ms, later ones "
            f"{row['later_ms']:7.1f} ms, {row['later_cpu_ms']:.1f} ms of CPU time{word}"
        )
    held = memory(made["deqjax, DEQ, gradient"], count)
    print(
        f"{count} gradients: {held['mib_early']:.0f} MiB after a tenth of them, "
        f"{held['mib_late']:.0f} MiB at the end"
    )
    record = {**environment(["jax", "flax", *PEERS]), "calls": rows, "memory": held}
    save(options.out, "eager", record, None)


if __name__ == "__main__":
    main()
