"""Kernels of one step of each solver, in the program that is compiled for this device."""

import importlib
from functools import partial

import jax

import cells
from accelerated.part import Options, Tell
from contenders import available


def measure(options: Options, tell: Tell) -> None:
    """Of our solvers and JAXopt's, on the cell with one matrix product."""
    count = importlib.import_module("kernels").count
    cell = (cells.quick() if options.tiny else cells.full_size())[0]
    contenders, missing = available(("jaxopt",))
    tell("not installed", missing)
    problem = (cell.weights, cell.inputs, cell.z0)
    for contender in contenders:
        solve = jax.jit(partial(contender.solve, cell.f))
        text = solve.lower(*problem, cell.tol).compile().as_text()
        tell(contender.name, count(text))
