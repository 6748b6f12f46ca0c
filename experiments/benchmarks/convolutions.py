"""What the gradient of a solve costs over the solve, for cells of other people's convolutions.

Command:   python experiments/benchmarks/convolutions.py [--cells nnx.Conv "4 groups"]
           [--steps 12] [--repeats 15] [--quick] [--out FOLDER]
Hardware:  any; the published figures name theirs
Time:      about three minutes on two CPU cores
Expected:  gradient / forward at most 3.5 in every cell (experiments/results/convolutions.json)

Each cell is z' = tanh(convolution of z + x) with a convolution of Flax NNX, Linen or JAX alone, in
the layouts that people use. Forward and backward solve take the same number of Anderson steps
(tolerance 0). The gradient is that of the mean square of z* in the weights and in x. Cell: one
evaluation of f and its gradient, outside of any loop. JAXopt solves the same cell, its backward
system by as many steps of GMRES.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from rich.console import Console
from rich.table import Table

import deqjax
from contenders import HISTORY, load
from timing import RESULTS, environment, interleaved, milliseconds, ratio, save, verdict

TARGET = 3.5
PEERS_CELL = "nnx.Conv"
Solve = Callable[[Any, Any, Any], Any]


class Cell(NamedTuple):
    """A convolution in a layer.

    Attributes:
        name: what it is called in the table.
        convolve: ``convolve(weights, z)``, of the shape of z.
        weights: a pytree of float32 arrays.
        x: the injection, of the shape of z.
    """

    name: str
    convolve: Callable[[Any, jax.Array], jax.Array]
    weights: Any
    x: jax.Array

    def f(self, z: jax.Array, weights: Any, x: jax.Array) -> jax.Array:
        """One evaluation."""
        return jnp.tanh(0.5 * self.convolve(weights, z) + x)


def cells(batch: int = 8, size: int = 32, channels: int = 24) -> list[Cell]:
    """One cell for each way to write a convolution."""
    last, first = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")
    image = (batch, size, size, channels)
    image_first = (batch, channels, size, size)
    short = max(2, size // 4)

    def kernel(*shape: int) -> jax.Array:
        # whichever axes are in and out: a contraction on the average
        return jax.random.normal(jax.random.key(0), shape) / math.sqrt(math.prod(shape) / channels)

    def plain(name: str, shape: Sequence[int], weights: Any, **options: Any) -> Cell:
        axes = options.pop("axes", last)
        ones = (1,) * (len(shape) - 2)

        def convolve(weights: Any, z: jax.Array) -> jax.Array:
            return lax.conv_general_dilated(
                z, weights, ones, "SAME", dimension_numbers=axes, **options
            )

        return Cell(name, convolve, weights, injection(shape))

    def injection(shape: Sequence[int]) -> jax.Array:
        return jax.random.normal(jax.random.key(1), shape)

    def down_and_up(weights: Any, z: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(z, weights["down"], (2, 2), "SAME", dimension_numbers=last)
        return lax.conv_transpose(y, weights["up"], (2, 2), "SAME")

    graph, state = nnx.split(nnx.Conv(channels, channels, (3, 3), rngs=nnx.Rngs(0)))
    linen = nn.Conv(channels, (3, 3))
    three = (3, 3, channels, channels)
    grouped = {"feature_group_count": 4}
    depthwise = {"feature_group_count": channels}
    return [
        Cell("nnx.Conv", lambda w, z: nnx.merge(graph, w)(z), state, injection(image)),
        Cell("linen.Conv", linen.apply, linen.init(jax.random.key(0), z := injection(image)), z),
        plain("lax, NCHW", image_first, kernel(channels, channels, 3, 3), axes=first),
        plain("4 groups", image, kernel(3, 3, channels // 4, channels), **grouped),
        plain("depthwise", image, kernel(3, 3, 1, channels), **depthwise),
        plain("depthwise, NCHW", image_first, kernel(channels, 1, 3, 3), axes=first, **depthwise),
        Cell(
            "stride 2, then transposed",
            down_and_up,
            {"down": kernel(*three), "up": kernel(*three)},
            injection(image),
        ),
        plain("dilation 2", image, kernel(*three), rhs_dilation=(2, 2)),
        plain(
            "1-d, NCH",
            (batch, channels, size * size),
            kernel(channels, channels, 3),
            axes=("NCH", "OIH", "NCH"),
        ),
        plain(
            "3-d, NCDHW",
            (batch, channels, short, short, short),
            kernel(channels, channels, 3, 3, 3),
            axes=("NCDHW", "OIDHW", "NCDHW"),
        ),
    ]


def ours(cell: Cell, steps: int) -> Solve:
    """Anderson and implicit differentiation by Anderson."""
    solver = partial(deqjax.solvers.anderson, history=HISTORY)
    rule = deqjax.adjoints.implicit(solver, tol=0.0, max_steps=steps)

    def solve(z0: Any, weights: Any, x: Any) -> Any:
        return deqjax.fixed_point(
            cell.f, z0, weights, x, solver=solver, adjoint=rule, tol=0.0, max_steps=steps
        ).value

    return solve


def jaxopt(cell: Cell, steps: int) -> Solve:
    """JAXopt's Anderson, and its implicit differentiation by GMRES."""
    package = load("jaxopt")
    gmres = partial(package.linear_solve.solve_gmres, tol=0.0, maxiter=1, restart=steps)

    def solve(z0: Any, weights: Any, x: Any) -> Any:
        solver = package.AndersonAcceleration(
            cell.f,
            history_size=HISTORY + 1,
            tol=0.0,
            maxiter=steps,
            ridge=1e-5,
            implicit_diff_solve=gmres,
        )
        return solver.run(z0, weights, x).params

    return solve


def measure(cell: Cell, name: str, solve: Solve, repeats: int) -> dict[str, Any]:
    """Forward, gradient and the cell alone, in turns."""
    z0 = jnp.zeros_like(cell.x)

    def loss(end: Solve, weights: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(end(z0, weights, x) ** 2)

    def gradient(end: Solve) -> Callable[[], Any]:
        compiled = jax.jit(jax.grad(partial(loss, end), argnums=(0, 1)))
        return lambda: compiled(cell.weights, cell.x)

    forward, evaluate = jax.jit(solve), jax.jit(cell.f)
    seconds = interleaved(
        {
            "forward": lambda: forward(z0, cell.weights, cell.x),
            "gradient": gradient(solve),
            "cell": lambda: evaluate(z0, cell.weights, cell.x),
            "cell's gradient": gradient(cell.f),
        },
        repeats,
    )
    return {
        "cell": cell.name,
        "solver": name,
        **{f"{key}_ms": milliseconds(values) for key, values in seconds.items()},
        "ratio": ratio(seconds["gradient"], seconds["forward"]),
    }


def show(rows: Sequence[dict[str, Any]], steps: int) -> None:
    """One line a cell and solver."""
    table = Table(title=f"{steps} steps each way, milliseconds", title_justify="left")
    table.add_column("cell", no_wrap=True)
    table.add_column("solver", no_wrap=True)
    for name in ("cell", "cell's gradient", "forward", "gradient", "ratio"):
        table.add_column(name, justify="right")
    table.add_column(f"at most {TARGET}", no_wrap=True)
    for row in rows:
        table.add_row(
            row["cell"],
            row["solver"],
            *(f"{row[f'{key}_ms']:.2f}" for key in ("cell", "cell's gradient")),
            *(f"{row[f'{key}_ms']:.1f}" for key in ("forward", "gradient")),
            f"{row['ratio']:.2f}",
            verdict(row["ratio"] <= TARGET) if row["solver"] == "deqjax" else "",
        )
    Console(width=None if Console().is_terminal else 130, highlight=False).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--cells", nargs="+", help="some of the cells, by their names")
    parser.add_argument("--steps", type=int, default=12, help="each way")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    chosen = cells(batch=2, size=4, channels=4) if options.quick else cells()
    if options.cells is not None:
        chosen = [cell for cell in chosen if cell.name in options.cells]
    rows, missing = [], {}
    for cell in chosen:
        solvers = {"deqjax": ours(cell, options.steps)}
        if cell.name == PEERS_CELL:
            try:
                solvers["jaxopt"] = jaxopt(cell, options.steps)
            except ImportError as error:
                missing["jaxopt"] = str(error)
        for name, solve in solvers.items():
            rows.append(measure(cell, name, solve, options.repeats))
    show(rows, options.steps)
    for name, reason in missing.items():
        print(f"{name} left out: {reason}")
    record = environment(("jax", "flax", "jaxopt", "deqjax")) | {
        "steps": options.steps,
        "repeats": options.repeats,
        "target": TARGET,
        "rows": rows,
        "missing": missing,
    }
    save(options.out, "convolutions", record, None)


if __name__ == "__main__":
    main()
