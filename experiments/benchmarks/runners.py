"""What it takes to run a contender on a cell: compile it, count its evaluations, time bare f."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cells import Cell
from contenders import Contender, load


class Runner(NamedTuple):
    """A contender on a cell, ready to be timed.

    Attributes:
        run: ``run(tol)``: the solve.
        value: ``value(tol)``: its result as the JAX cell's state.
        evaluations: ``evaluations(tol)``: evaluations of f on the whole batch that it takes,
            directional derivatives included, counted while it runs.
        bare: ``bare(n)``: n evaluations of f one after the other, in the same framework.
    """

    run: Callable[[float], Any]
    value: Callable[[float], Any]
    evaluations: Callable[[float], int]
    bare: Callable[[int], Any]


def runner(contender: Contender, cell: Cell) -> Runner:
    """Make a contender ready on a cell."""
    if contender.package == "torchdeq":
        return _torch_runner(contender, cell)
    return _jax_runner(contender, cell)


def _jax_runner(contender: Contender, cell: Cell) -> Runner:
    problem = (cell.weights, cell.inputs, cell.z0)

    def compiled(f):
        static = {"static_argnums": 3} if contender.fixed_tol else {}
        return jax.jit(partial(contender.solve, f), **static)

    solve = compiled(cell.f)

    def run(tol: float) -> Any:
        return solve(*problem, tol)

    def evaluations(tol: float) -> int:
        ticks: list[None] = []
        jax.block_until_ready(compiled(counting(cell.f, ticks))(*problem, tol))
        return len(ticks)

    return Runner(run, run, evaluations, lambda n: bare_loop(cell.f, *problem, n))


@partial(jax.jit, static_argnums=0)
def bare_loop(f: Callable[..., Any], weights: Any, inputs: Any, z0: Any, n: jax.Array) -> Any:
    """So many evaluations z <- f(z); compiled once for each f."""
    return lax.fori_loop(0, n, lambda _, z: f(z, weights, inputs), z0)


def counting(f: Callable[..., Any], ticks: list[None]) -> Callable[..., Any]:
    """Make f append to ``ticks`` whenever it, or its directional derivative, is computed.

    The callback's result enters f's, so that an evaluation that XLA drops is not counted; a mapped
    evaluation of all samples counts once.
    """

    def tick(state):
        def note(x):
            ticks.append(None)
            return np.zeros(x.shape, np.float32)

        leaves, structure = jax.tree.flatten(state)
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        zero = jax.pure_callback(note, shape, leaves[0].ravel()[0], vmap_method="broadcast_all")
        return jax.tree.unflatten(structure, [leaves[0] + zero, *leaves[1:]])

    @jax.custom_jvp
    def counted(*arguments):
        return tick(f(*arguments))

    @counted.defjvp
    def _(primals, tangents):
        value, tangent = jax.jvp(f, primals, tangents)
        return tick(value), tick(tangent)

    return counted


def _torch_runner(contender: Contender, cell: Cell) -> Runner:
    torch = load("torch")
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    twin = load("torch_cells").twin(cell, device)
    _check_twin(cell, twin)

    def finish(z):
        if device == "cuda":
            torch.cuda.synchronize()
        return z

    def run(tol: float, f=twin.f) -> Any:
        with torch.inference_mode():
            return finish(contender.solve(f, twin.z0, tol))

    def evaluations(tol: float) -> int:
        ticks: list[None] = []

        def counted(z):
            ticks.append(None)
            return twin.f(z)

        run(tol, counted)
        return len(ticks)

    def bare(n: int) -> Any:
        with torch.inference_mode():
            z = twin.z0
            for _ in range(n):
                z = twin.f(z)
            return finish(z)

    return Runner(run, lambda tol: twin.to_numpy(run(tol)), evaluations, bare)


def _check_twin(cell: Cell, twin: Any) -> None:
    """Raise if the PyTorch cell is another function."""
    z = twin.f(twin.f(twin.z0))
    here = jax.tree.leaves(cell.f(twin.to_numpy(z), cell.weights, cell.inputs))
    there = jax.tree.leaves(twin.to_numpy(twin.f(z)))
    error = max(float(np.max(np.abs(a - b))) for a, b in zip(here, there, strict=True))
    if error > 1e-4:
        raise ValueError(f"the {cell.name} cell in PyTorch differs by {error:.1e} from JAX's.")
