"""Compares converted models with what the published implementations compute.

Command:   python experiments/golden.py FOLDER
Hardware:  any
Time:      a few seconds per case on two CPU cores
Expected:  every error below 1e-5; above 1e-4, or if a case cannot be compared, the exit status is 1

FOLDER holds cases in threes: NAME.pth, the published state dict; NAME.json, its configuration; and
NAME.npz, inputs and outputs of the published implementation. Each case is converted and run as
users run it, in float32: float64 would hide nothing, since the weights are float32, and errors stay
two orders of magnitude below the limit.

An error is relative, the larger of max|a - b| / max|b| and ||a - b|| / ||b||: the first tells a
single wrong element, the second an error everywhere that large elements would hide.

Fixed points are solved from zero as far as float32 goes. Random weights may have several: where
ours is another one, the solve starts again at the published one, which must then hold still. A
segment's memory is our own, handed on from the segment before.
"""

import argparse
import dataclasses
import functools
import json
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from deqjax import solvers
from deqjax.convert import convert_deq_transformer, read_state_dict
from deqjax.models import DEQTransformerLM, SegmentMemory

LIMIT = 1e-4
# what a fixed point in float32 is expected to reach, and what the solvers are asked for
RESIDUAL, TOL = 1e-6, 5e-8
STEPS = 200
PARTS = (".pth", ".json", ".npz")


class CaseError(ValueError):
    """A case that cannot be compared, and why."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: the errors of one segment or one image."""

    name: str
    errors: dict[str, float]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """What the three files of a case hold."""

    name: str
    state: Mapping[str, np.ndarray]
    config: dict[str, Any]
    arrays: Mapping[str, np.ndarray]

    def array(self, name: str) -> np.ndarray:
        """One of the published arrays."""
        if name not in self.arrays:
            raise CaseError(f"{self.name}.npz lacks {name!r}; write the case again.")
        return self.arrays[name]

    def error(self, name: str, ours: jax.Array) -> float:
        """The relative error against one of the published arrays."""
        theirs = self.array(name).astype(np.float64)
        if ours.shape != theirs.shape:
            raise CaseError(f"{name} has shape {theirs.shape}, but ours has {ours.shape}.")
        return relative_error(np.asarray(ours, np.float64), theirs)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The larger of the largest element's and the norm's; NaN if anything is NaN."""
    if theirs.size == 0:
        return 0.0
    difference = np.abs(ours - theirs)
    sizes = np.array([np.max(np.abs(theirs)), np.linalg.norm(theirs)])
    errors = np.array([np.max(difference), np.linalg.norm(difference)])
    # where all is zero, all of a difference counts
    return float(np.max(errors / np.where(sizes > 0, sizes, 1)))


def deq_transformer(case: Case) -> list[Row]:
    """Two segments of a DEQ-Transformer, the second with the memory that the first hands on."""
    model = convert_deq_transformer(case.state, case.config)
    # functions and not partial objects, so that cases of one shape share one compilation
    model.deq.solver, model.deq.adjoint = _anderson, None
    tokens = case.array("tokens")
    length, odd = divmod(tokens.shape[1], 2)
    if not odd:
        raise CaseError(f"tokens has {tokens.shape[1]} columns, not two segments and one more.")
    rows, memory = [], model.initial_memory(len(tokens))
    for segment in (0, 1):
        window = jnp.asarray(tokens[:, segment * length : (segment + 1) * length + 1], jnp.int32)
        row, memory = _segment(case, model, segment, window, memory)
        rows.append(row)
    return rows


def _segment(
    case: Case, model: DEQTransformerLM, segment: int, window: jax.Array, memory: SegmentMemory
) -> tuple[Row, SegmentMemory]:
    graph, state = nnx.split(model)
    z, v, published = (
        jnp.asarray(case.array(f"{name}_{segment}"), jnp.float32) for name in ("z", "v", "z_star")
    )
    for given in (z, v, published):
        if given.shape != (*window[:, 1:].shape, model.shape.width):
            raise CaseError(
                f"a state of segment {segment} has shape {given.shape}, but the tokens and d_model "
                f"make it {(*window[:, 1:].shape, model.shape.width)}."
            )
    errors = {
        label: case.error(f"{name}_{segment}", ours)
        for label, name, ours in zip(
            ("f(z)", "Jv", "vJ"),
            ("f_z", "Jv", "vJ"),
            _derivatives(graph, state, window, memory, z, v),
            strict=True,
        )
    }
    note = ""
    solved = _solve(graph, state, window, memory, jnp.zeros_like(z))
    if not case.error(f"z_star_{segment}", solved[0]) <= LIMIT:
        again = _solve(graph, state, window, memory, published)
        if case.error(f"z_star_{segment}", again[0]) <= LIMIT and float(again[3]) <= RESIDUAL:
            solved, note = again, "zeros lead to another fixed point"
    value, nll, memory, residual = solved
    # ours has its full length from the start and is filled from the end
    first = memory.states.shape[1] - int(memory.filled[0])
    errors |= {
        "z*": case.error(f"z_star_{segment}", value),
        "nll": case.error(f"nll_{segment}", nll.T),
        "memory z": case.error(f"mem_z_{segment}", memory.states[:, first:]),
        "memory u": case.error(f"mem_u_{segment}", memory.injection[:, first:]),
    }
    if not float(residual) <= RESIDUAL:
        note = f"residual of z* only {float(residual):.1e}"
    return Row(f"{case.name}, segment {segment}", errors, note), memory


@functools.partial(jax.jit, static_argnums=0)
def _derivatives(
    graph: nnx.GraphDef[DEQTransformerLM],
    state: nnx.State[Any, Any],
    window: jax.Array,
    memory: SegmentMemory,
    z: jax.Array,
    v: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """f(z), J v and v J."""
    model = nnx.merge(graph, state, copy=True)
    u = model.inputs(window[:, :-1], memory)

    def f(z: jax.Array) -> jax.Array:
        return model.deq.cell(z, u)

    value, tangent = jax.jvp(f, (z,), (v,))
    (cotangent,) = jax.vjp(f, z)[1](v)
    return value, tangent, cotangent


def _solve(
    graph: nnx.GraphDef[DEQTransformerLM],
    state: nnx.State[Any, Any],
    window: jax.Array,
    memory: SegmentMemory,
    z0: jax.Array,
) -> tuple[jax.Array, jax.Array, SegmentMemory, jax.Array]:
    """z*, the targets' negative log-likelihoods, the memory after, and the largest residual."""
    solved = _solve_by(_anderson, graph, state, window, memory, z0)
    if float(solved[3]) <= RESIDUAL:
        return solved
    # maps with a spectral radius above 1 are Newton's
    again = _solve_by(_newton, graph, state, window, memory, solved[0])
    return again if float(again[3]) < float(solved[3]) else solved


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solve_by(
    solver: Callable[..., solvers.Solution],
    graph: nnx.GraphDef[DEQTransformerLM],
    state: nnx.State[Any, Any],
    window: jax.Array,
    memory: SegmentMemory,
    z0: jax.Array,
) -> tuple[jax.Array, jax.Array, SegmentMemory, jax.Array]:
    model = nnx.merge(graph, state, copy=True)
    model.deq.solver = solver
    prediction = model(window[:, :-1], memory, z0=z0, tol=TOL, max_steps=STEPS)
    solution = prediction.equilibrium.solution
    nll = model.negative_log_likelihood(prediction.states, window[:, 1:])
    return solution.value, nll, prediction.memory, jnp.max(solution.stats.residual)


def _anderson(f: Any, z0: jax.Array, **options: Any) -> solvers.Solution:
    return solvers.anderson(f, z0, history=20, ridge=1e-7, **options)


def _newton(f: Any, z0: jax.Array, **options: Any) -> solvers.Solution:
    return solvers.newton_krylov(f, z0, krylov=40, **options)


# the beginning of a case's name tells how to convert and compare it
COMPARISONS: dict[str, Callable[[Case], list[Row]]] = {"deq_transformer_": deq_transformer}


def compare(folder: Path, name: str) -> list[Row]:
    """The rows of a case, one without errors where nothing converts such a model."""
    comparison = next((f for prefix, f in COMPARISONS.items() if name.startswith(prefix)), None)
    if comparison is None:
        return [Row(name, {}, "no converter yet")]
    absent = [name + part for part in PARTS if not (folder / (name + part)).is_file()]
    if absent:
        raise CaseError(f"{', '.join(absent)} not found; a case needs all of {', '.join(PARTS)}.")
    state = read_state_dict(folder / f"{name}.pth")
    config = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise CaseError(f"{name}.json holds no JSON object of options.")
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return comparison(Case(name, state, config, dict(arrays)))


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print the errors, one column per quantity."""
    table = Table(title=f"relative errors (at most {LIMIT:g})", title_justify="left")
    table.add_column("case", no_wrap=True)
    quantities = list(dict.fromkeys(name for row in rows for name in row.errors))
    for name in quantities:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        values = [f"{row.errors[n]:.1e}" if n in row.errors else "" for n in quantities]
        table.add_row(row.name, *values, row.note)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare every case of a folder; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # a pipe has no width; tables would be cut to 80 columns
    names = sorted({file.stem for file in folder.glob("*") if file.suffix in PARTS})
    if not names:
        console.print(f"{folder} holds no case ({', '.join(PARTS)}); name a folder of cases.")
        return 1
    rows: list[Row] = []
    failures: list[str] = []
    for name in names:
        try:
            rows += compare(folder, name)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            failures.append(f"{name} failed: {error}")
    failures += [
        f"{row.name}: the error of {quantity} is {value:.1e}, above {LIMIT:g}"
        for row in rows
        for quantity, value in row.errors.items()
        if not value <= LIMIT  # NaN is no success
    ]
    if rows:
        show(console, rows)
    compared = [value for row in rows for value in row.errors.values()]
    if not compared and not failures:
        failures.append(f"no case in {folder} could be compared.")
    for failure in failures:
        console.print(failure)
    if not failures:
        console.print(f"{len(compared)} comparisons, largest error {max(compared):.1e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
