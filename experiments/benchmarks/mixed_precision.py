"""How far bfloat16 gets, and what a solve in two precisions takes, on the golden models.

Command:   python experiments/benchmarks/mixed_precision.py FOLDER [--quick] [--out FOLDER]
Hardware:  two CPU cores, no GPU
Time:      about five minutes
Expected:  mixed reaches 1e-6 everywhere, bfloat16 nowhere; fewer evaluations in full precision
           than float32 takes (experiments/results/mixed_precision.json)

FOLDER holds the cases of golden.py: small models with published weights, inputs and fixed points.
Each is solved to 1e-6 with its cell in float32, with its cell in bfloat16, and by
`deqjax.solvers.mixed_precision`; so is the backward system of its gradient at z*, in float32 and
mixed. Residuals are those of the float32 cell at what was returned. Anderson's method solves from
zero where that converges in float32; elsewhere (random weights, a radius above 1) Newton's solves
from near the published fixed point, and products with the Jacobian count as evaluations.

On a CPU nothing is faster in bfloat16: XLA converts it and multiplies in float32. So counts are
shown, not times: evaluations in either precision, and bytes of weights that their products read,
relative to the float32 solve.
"""

import argparse
import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from deqjax._core.residual import residual_norm
from deqjax.convert import convert_deq_transformer, convert_mdeq, read_state_dict
from deqjax.solvers import anderson, mixed_precision, newton_krylov
from timing import RESULTS, environment, save, verdict

TOL = 1e-6
STEPS = 100
NOISE = 0.1


def cell_of(folder: Path, name: str, dtype: str):
    """f(z), zeros to start from, and the published fixed point."""
    state = read_state_dict(folder / f"{name}.pth")
    config = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as file:
        arrays = dict(file)
    if name.startswith("mdeq"):
        model = convert_mdeq(state, config)
        given = (jnp.asarray(arrays["image"], jnp.float32),)
        z0 = model.zero_state(*arrays["image"].shape[:3])
        published = tuple(jnp.asarray(arrays[f"z_star_{i}"]) for i in range(len(z0)))
    else:
        model = convert_deq_transformer(state, config)
        tokens = arrays["tokens"]
        length = tokens.shape[1] // 2
        window = jnp.asarray(tokens[:, :length], jnp.int32)
        given, z0 = (window, model.initial_memory(len(tokens))), model.zero_state(*window.shape)
        published = jnp.asarray(arrays["z_star_0"])
    cell = model.deq.cell
    cell.shape = dataclasses.replace(cell.shape, dtype=dtype)
    u = model.inputs(*given)
    return lambda z: cell(z, u), z0, published


def near(state):
    """The state with noise in each number."""
    leaves, structure = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    moved = [
        leaf * (1 + NOISE * jax.random.normal(key, leaf.shape))
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def solved(f, z0, solver, exact):
    """Where a solve led: its counts, and the largest residual of the exact map."""
    run = jax.jit(lambda z: solver(f, z, tol=TOL, max_steps=STEPS))
    solution = run(z0)
    measure = jax.jit(lambda z: residual_norm(z, exact(z)))
    low = solution.stats.low_evaluations
    return {
        "residual": float(jnp.max(measure(solution.value))),
        "steps": int(jnp.max(solution.stats.steps)),
        "evaluations": int(solution.stats.evaluations),
        "low_evaluations": 0 if low is None else int(low),
    }, solution.value


def compare(folder: Path, name: str, quick: bool) -> dict[str, dict[str, float]]:
    """The rows of a case: a solve in each precision, forward and backward."""
    f, zeros, published = cell_of(folder, name, "float32")
    solver, z0 = functools.partial(anderson, history=20, ridge=1e-7), zeros
    plain, value = solved(f, z0, solver, f)
    if plain["residual"] > TOL:
        solver, z0 = functools.partial(newton_krylov, krylov=40), near(published)
        plain, value = solved(f, z0, solver, f)
    both = functools.partial(mixed_precision, solver=solver)
    rows = {"float32": plain, "mixed": solved(f, z0, both, f)[0]}
    half = cell_of(folder, name, "bfloat16")[0]
    rows["bfloat16"] = solved(half, z0, solver, f)[0]
    rows["bfloat16"]["low_evaluations"] = rows["bfloat16"]["evaluations"]
    if not quick:
        cotangent = near(jax.tree.map(jnp.ones_like, value))
        pull = jax.vjp(f, value)[1]

        def adjoint_map(w):
            return jax.tree.map(jnp.add, pull(w)[0], cotangent)

        rows["backward, float32"] = solved(adjoint_map, cotangent, solver, adjoint_map)[0]
        rows["backward, mixed"] = solved(adjoint_map, cotangent, both, adjoint_map)[0]
    for kind, row in rows.items():
        alone = rows["backward, float32" if kind.startswith("backward") else "float32"]
        full = row["evaluations"] - row["low_evaluations"]
        # of 4 bytes a number, and of 2 where rounded
        row["weight_bytes"] = (full + row["low_evaluations"] / 2) / alone["evaluations"]
    return {"solver": solver.func.__name__, "rows": rows}


def show(name: str, case) -> None:
    """Print the rows of a case."""
    print(f"{name} ({case['solver']})")
    for kind, row in case["rows"].items():
        full = row["evaluations"] - row["low_evaluations"]
        print(
            f"  {kind:18} residual {row['residual']:.1e}   evaluations: float32 {full:4}, "
            f"bfloat16 {row['low_evaluations']:4}   weight bytes {row['weight_bytes']:.2f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="one case, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    kinds = ("deq_transformer_*.npz", "mdeq_*.npz")
    # or XLA would leave out some of the rounding that an accelerator does
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_allow_excess_precision=false"
    )
    names = sorted(file.stem for kind in kinds for file in options.folder.glob(kind))
    if not names:
        parser.error(f"{options.folder} holds no case of {' or '.join(kinds)}")
    cases = {}
    for name in names[:1] if options.quick else names:
        cases[name] = compare(options.folder, name, options.quick)
        show(name, cases[name])
    rows = [row for case in cases.values() for row in case["rows"].items()]
    reached = all(row["residual"] <= 1.1 * TOL for kind, row in rows if "mixed" in kind)
    stalled = min(row["residual"] for kind, row in rows if kind == "bfloat16")
    print(f"mixed: {verdict(reached)} (a residual of {TOL:g}); bfloat16 stays above {stalled:.1e}")
    record = environment(("jax", "flax", "deqjax")) | {"tol": TOL, "cases": cases}
    save(options.out, "mixed_precision", record, None)


if __name__ == "__main__":
    main()
