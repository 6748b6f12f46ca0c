"""What the equilibrium layers of NNX and of Linen ask of a cell before they iterate it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

from deqjax._core.hoist import last_step
from deqjax._core.types import Operands, State
from deqjax.solvers import Solution


def start(u: Operands, z0: State | None) -> State:
    """z0, or zeros like u."""
    return jax.tree.map(jnp.zeros_like, u) if z0 is None else z0


def first_step(numbered: bool) -> dict[str, jax.Array]:
    """What a cell is called with besides z and u before the solve, for shapes and checks."""
    return {"step": jnp.int32(0)} if numbered else {}


def end_step(numbered: bool, solution: Solution) -> dict[str, jax.Array]:
    """Likewise at the end of the solve."""
    return {"step": last_step(solution)} if numbered else {}


def check_nnx_cell(cell: Callable[..., Any]) -> None:
    """Refuse a cell whose parameters NNX would not see.

    NNX finds modules in attributes; one held by a function would be a constant to it.

    Raises:
        TypeError: a class, a Linen module, or a function that holds a module.
    """
    if isinstance(cell, nnx.Module):
        return
    _check_kind(cell, flax.linen.Module, "a Linen", "deqjax.linen.DEQ")
    held = _first_held(cell, nnx.Module)
    if held is not None:
        raise TypeError(
            f"the cell is a function that hides the module {type(held).__name__} and its "
            "parameters from NNX; give DEQ the module itself, or write the cell as an "
            "nnx.Module that holds it as an attribute."
        )


def check_linen_cell(cell: Callable[..., Any]) -> None:
    """Refuse a cell whose variables Linen would not see.

    Raises:
        TypeError: a class, an NNX module, or a function that holds a module.
    """
    if isinstance(cell, flax.linen.Module):
        return
    _check_kind(cell, nnx.Module, "an NNX", "deqjax.nn.DEQ")
    held = _first_held(cell, flax.linen.Module)
    if held is not None:
        raise TypeError(
            f"the cell is a function that hides the module {type(held).__name__} and its "
            "variables from Linen, which would leak tracers into them; give DEQ the module "
            "itself, or write the cell as an nn.Module that holds it as an attribute."
        )


def _check_kind(cell: Callable[..., Any], other: type, flavour: str, layer: str) -> None:
    if isinstance(cell, type):
        raise TypeError(f"the cell {cell.__name__} is a class; give DEQ an instance of it.")
    if isinstance(cell, other):
        raise TypeError(
            f"the cell {type(cell).__name__} is {flavour} module; its layer is {layer}."
        )


def _first_held(cell: Callable[..., Any], kind: type) -> object | None:
    """The first module of a kind that a function holds."""
    held = _held_by(inspect.unwrap(cell))
    return next((each for each in held if isinstance(each, kind)), None)


def _held_by(cell: object) -> tuple[object, ...]:
    if isinstance(cell, functools.partial):
        return (*_held_by(cell.func), *cell.args, *cell.keywords.values())
    if inspect.ismethod(cell):
        return (cell.__self__,)
    if inspect.isfunction(cell):
        names = inspect.getclosurevars(cell)
        return (*names.nonlocals.values(), *names.globals.values())
    return ()
