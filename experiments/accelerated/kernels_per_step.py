"""Kernels of one step of each solver, in the program that is compiled for this device."""

import dataclasses
import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

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
        tell(contender.name, _by_name(count(text)))


def _by_name(found: Any) -> Any:
    """What was counted, with the names of its fields, as JSON has it."""
    if isinstance(found, list | tuple) and not hasattr(found, "_asdict"):
        return [_by_name(each) for each in found]
    if isinstance(found, Mapping):
        return {name: _by_name(each) for name, each in found.items()}
    if dataclasses.is_dataclass(found):
        return _by_name(dataclasses.asdict(found))
    return _by_name(found._asdict()) if hasattr(found, "_asdict") else found
