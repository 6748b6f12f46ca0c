"""Kernels that a step of each solver launches beyond those of f, and the bytes that they move.

Command:   JAX_PLATFORMS=cpu python experiments/benchmarks/kernels.py [--topology v5e:2x2
           --batch 32 --width 256 --sections solvers backward penalty training
           --recipe experiments/stdlib_lm.py
           --peers jaxopt optimistix banax --out experiments/results]
Hardware:  none but a CPU: the programs are compiled for a TPU that need not be there
Needs:     pip install '.[tpu]', for libtpu, the TPU's compiler; --topology here counts the
           program for this machine's own device instead (a GPU's, where there is one)
Time:      about three minutes on two CPU cores
Expected:  see experiments/results/kernels.json

A kernel is a fusion, a copy, a slice update, a reduction, a call or a collective in the body of the
compiled loop, its condition and inner loops included. Of each body those of a bare loop z <- f(z),
compiled likewise, are subtracted. Bytes are those that the kernels read and write beyond that bare
loop, over those that the method must move: each array of its state read once, each new one written
once (of a history the new column), and f(z) read once.

States: "one" is tanh(z W + x); "three" is three such leaves, each fed by the one before. Backward
solves run w <- J^T w + v from a linearization at a given z. The penalty and the training step are
whole programs: their kernels outside loops, a loop as one, and each loop of the training step, by
the part of the step that it belongs to. That step is the one `deqjax estimate` plans for a run, on
one device.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from rich.console import Console
from rich.table import Table

import deqjax
from contenders import HISTORY, PEERS
from deqjax.solvers import anderson, broyden, gmres, picard, reversible
from deqjax.training import RunConfig, load_experiment
from deqjax.training.estimate._step import planned_step
from deqjax.training.estimate._target import TopologyError, target_of
from hlo import Loop, kernels_of_loops, kernels_of_program
from timing import RESULTS, environment, save, verdict

STEPS = 30
RECIPE = Path(__file__).parents[1] / "stdlib_lm.py"
SECTIONS = ("solvers", "backward", "penalty", "training")
# solver -> most kernels a step beyond f of one leaf, and of each further leaf
KERNEL_TARGETS = {"anderson": (10, 4), "broyden": (16, 4)}
BYTES_TARGET = 1.3
Row = dict[str, Any]


class Problem(NamedTuple):
    """f(z, weight, inputs) and the shapes of its arguments."""

    name: str
    f: Callable[[Any, Any, Any], Any]
    z: Any
    weight: Any
    inputs: Any

    @property
    def bytes(self) -> int:
        """Of one state."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.z))


def count(text: str) -> list[Row]:
    """The loops of a compiled program, for the record."""
    return [_of_loop(loop) for loop in kernels_of_loops(text)]


def problems(batch: int, width: int, place: Any) -> list[Problem]:
    """A state of one leaf, and one of three."""

    def one(z, weight, inputs):
        return jnp.tanh(z @ weight + inputs)

    def three(z, weight, inputs):
        a = one(z["a"], weight, inputs)
        return {"a": a, "b": one(z["b"], weight, z["a"]), "c": one(z["c"], weight, z["b"])}

    leaf = _shape(place, batch, width)
    weight = _shape(place, width, width)
    return [
        Problem("one", one, leaf, weight, leaf),
        Problem("three", three, dict.fromkeys("abc", leaf), weight, leaf),
    ]


def of_solvers(problem: Problem, peers: Sequence[str]) -> list[Row]:
    """Each solver's step over a bare evaluation."""
    solvers = {
        "anderson": partial(anderson, history=HISTORY),
        "picard": picard,
        "reversible": reversible,
        "broyden": broyden,
        "gmres": gmres,
    }
    bare = _largest(problem, _bare(problem.f))
    rows = []
    for name, solver in solvers.items():

        def solve(z, weight, inputs, solver=solver):
            return solver(lambda z: problem.f(z, weight, inputs), z, tol=1e-3, max_steps=STEPS)

        rows.append(_beyond(problem, f"deqjax {name}", _largest(problem, solve), bare))
    for package in peers:
        try:
            found = PEERS[package](STEPS)
        except ImportError as error:
            print(f"{package} is left out: {error}")
            continue
        for contender in found:

            def peer(z, weight, inputs, contender=contender):
                return contender.solve(problem.f, weight, inputs, z, 1e-3)

            try:
                row = _beyond(problem, contender.name, _largest(problem, peer), bare)
            except Exception as error:  # a peer that does not take such states
                row = {"solver": contender.name, "refused": str(error).splitlines()[0]}
            rows.append({"state": problem.name} | row)
    return rows


def of_backward_solves(problem: Problem) -> list[Row]:
    """Each backward solve's step over a bare pull-back."""

    def pulling(run):
        def program(z, weight, inputs):
            pull = jax.vjp(lambda z: problem.f(z, weight, inputs), z)[1]
            return run(lambda w: jax.tree.map(jnp.add, pull(w)[0], z), z)

        return program

    bare = _largest(problem, pulling(_repeat))
    solvers = {"anderson": partial(anderson, history=HISTORY), "picard": picard, "gmres": gmres}
    rows = [
        _beyond(
            problem,
            f"backward {name}",
            _largest(problem, pulling(partial(solver, tol=1e-5, max_steps=STEPS))),
            bare,
        )
        for name, solver in solvers.items()
    ]

    def implicit(z, weight, inputs):
        def loss(weight):
            value = deqjax.fixed_point(problem.f, z, weight, inputs, solver=picard).value
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(value))

        return jax.grad(loss)(weight)

    # its second loop is the backward solve
    loops = kernels_of_loops(_compiled(problem, implicit))
    return [*rows, _beyond(problem, "implicit, in a gradient", loops[-1], bare)]


def of_penalty(problem: Problem) -> list[Row]:
    """The penalty and its gradient as one program."""

    def penalty(z, weight, inputs):
        def value(weight):
            return deqjax.jacobian_penalty(problem.f, z, weight, inputs, key=jax.random.key(0))

        return jax.value_and_grad(value)(weight)

    text = _compiled(problem, penalty)
    kernels = kernels_of_program(text)
    return [{"state": problem.name, "kernels": kernels.total(), "by kind": dict(kernels)}]


def of_training(config: RunConfig, topology: str) -> list[Row]:
    """A run's training step on one device: outside of its loops, then each outermost loop."""
    text = planned_step(config, (device_of(topology),)).traced.lower().compile().as_text()
    outside, loops = kernels_of_program(text), kernels_of_loops(text)
    return [
        {"loop": "none", "kernels": outside.total(), "by kind": dict(outside)},
        *({"loop": loop.part, "body": loop.name} | _of_loop(loop) for loop in loops),
    ]


def _beyond(problem: Problem, name: str, loop: Loop, bare: Loop) -> Row:
    must = loop.must - bare.must + problem.bytes
    return {
        "state": problem.name,
        "solver": name,
        "kernels beyond f": loop.total - bare.total,
        "kernels": loop.total,
        "by kind": dict(loop.kernels),
        "inner loops": [_of_loop(each) for each in loop.inner],
        "bytes over what must move": (loop.moved - bare.moved) / must,
    }


def _of_loop(loop: Loop) -> Row:
    return {
        "kernels": loop.total,
        "by kind": dict(loop.kernels),
        "bytes": loop.moved,
        "bytes that must move": loop.must,
        "passes": loop.trips,
        "inner loops": [_of_loop(each) for each in loop.inner],
    }


def _bare(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda z, weight, inputs: _repeat(lambda z: f(z, weight, inputs), z)


def _repeat(f: Callable[[Any], Any], z: Any) -> Any:
    return lax.fori_loop(0, STEPS, lambda _, z: f(z), z)


def _largest(problem: Problem, program: Callable[..., Any]) -> Loop:
    return max(kernels_of_loops(_compiled(problem, program)), key=lambda loop: loop.total)


def _compiled(problem: Problem, program: Callable[..., Any]) -> str:
    arguments = problem.z, problem.weight, problem.inputs
    return jax.jit(program).lower(*arguments).compile().as_text()


def _shape(place: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)


def placed(topology: str) -> Any:
    """One device of a TPU topology, or this machine's own."""
    device = device_of(topology)
    if topology == "here":
        return jax.sharding.SingleDeviceSharding(device)
    mesh = jax.sharding.Mesh([device], ("data",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def device_of(topology: str) -> Any:
    """The first device of a TPU topology, or this machine's own."""
    if topology == "here":
        return jax.devices()[0]
    try:
        return target_of(topology).devices[0]
    except TopologyError as error:
        reason = str(error).split(". ", maxsplit=1)[0].rstrip(".")
        raise SystemExit(f"{reason}; or count for this machine with --topology here.") from error


def targets(rows: Sequence[Row]) -> list[Row]:
    """What was to be reached, and whether it was."""
    found = []
    for row in rows:
        name = row["solver"].split()[-1]
        if name not in KERNEL_TARGETS or "jaxopt" in row["solver"] or "banax" in row["solver"]:
            continue
        first, further = KERNEL_TARGETS[name]
        most = first + (further * 2 if row["state"] == "three" else 0)
        for quantity, limit in (
            ("kernels beyond f", most),
            ("bytes over what must move", BYTES_TARGET),
        ):
            value = row[quantity]
            target = f"{row['solver']}, {row['state']}: {quantity} at most {limit}"
            found.append({"target": target, "value": value, "met": value <= limit})
    return found


def show(title: str, rows: Sequence[Row]) -> None:
    """One line a solver and state."""
    if not rows:
        return
    names = [name for name in rows[0] if name not in ("by kind", "inner loops", "loops")]
    table = Table(title=title, title_justify="left")
    for name in [*names, "by kind"]:
        words = name in ("state", "solver", "loop", "by kind")
        table.add_column(name, justify="left" if words else "right")
    for row in rows:
        by_kind = Counter(row.get("by kind", {})).most_common()
        kinds = ", ".join(f"{number} {kind}" for kind, number in by_kind)
        values = [_text(row.get(name, "")) for name in names]
        table.add_row(*values, row.get("refused", kinds))
    Console(width=150).print(table)


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--sections", nargs="*", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--peers", nargs="*", default=("jaxopt", "optimistix", "banax"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    place = placed(options.topology)
    record = environment(["jax", "jaxlib", "libtpu", *options.peers])
    record |= {"topology": options.topology, "batch": options.batch, "width": options.width}
    states = problems(options.batch, options.width, place)
    if "solvers" in options.sections:
        record["solvers"] = [row for each in states for row in of_solvers(each, options.peers)]
        show("one step of a solve", record["solvers"])
    if "backward" in options.sections:
        record["backward"] = [row for each in states for row in of_backward_solves(each)]
        show("one step of a backward solve", record["backward"])
    if "penalty" in options.sections:
        record["penalty"] = [row for each in states for row in of_penalty(each)]
        show("penalty and its gradient", record["penalty"])
    if "training" in options.sections:
        config = load_experiment(options.recipe)
        record["recipe"] = options.recipe.stem
        record["training"] = of_training(config, options.topology)
        show(f"one training step of {config.name}", record["training"])
    record["targets"] = targets([*record.get("solvers", []), *record.get("backward", [])])
    for target in record["targets"]:
        print(f"{verdict(target['met'])}: {target['target']} ({_text(target['value'])})")
    save(options.out, "kernels", record, None)


if __name__ == "__main__":
    main()
