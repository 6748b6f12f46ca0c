"""The arithmetic of a traced program, by the part of a training step that it belongs to."""

import functools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from deqjax.training.estimate._limits import Limits
from deqjax.training.estimate._parts import Part, part_of

# what moves numbers, or makes them, without arithmetic
_NO_ARITHMETIC = (
    "all_gather",
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "copy_p",
    "device_put",
    "dynamic_slice",
    "dynamic_update_slice",
    "empty",
    "empty2",
    "expand_dims",
    "gather",
    "iota",
    "mesh_cast",
    "name",
    "optimization_barrier",
    "pad",
    "pcast",
    "pvary",
    "reshape",
    "reshard",
    "rev",
    "scatter",
    "select_n",
    "sharding_constraint",
    "slice",
    "split",
    "squeeze",
    "stop_gradient",
    "transpose",
)
_COMBINING = ("reduce", "scatter")
"""What names the function of two numbers by which it combines many."""


def arithmetic(jaxpr: Any, limits: Limits) -> Counter[Part]:
    """FLOP of all devices by part: two for each product of a matrix, one for each other number.

    Args:
        jaxpr: a traced program.
        limits: how often loops of unknown length repeat.
    """
    return _total(jaxpr, "", limits, looping=False)


def _total(jaxpr: Any, prefix: str, limits: Limits, *, looping: bool) -> Counter[Part]:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total: Counter[Part] = Counter()
    for step in _alive(jaxpr):
        total.update(_step(step, prefix, limits, looping=looping))
    return total


def _step(step: Any, prefix: str, limits: Limits, *, looping: bool) -> Counter[Part]:
    name = f"{prefix}/{step.source_info.name_stack}".strip("/")
    part, kind, given = part_of(name), step.primitive.name, step.params

    def inside(jaxpr: Any, *, loops: bool = looping) -> Counter[Part]:
        return _total(jaxpr, name, limits, looping=loops)

    match kind:
        case "scan":
            return _scaled(inside(given["jaxpr"]), given["length"])
        case "while":
            times = limits.passes(part, looping=looping)
            return _scaled(inside(given["body_jaxpr"], loops=True), times)
        case "cond":
            branches = [inside(each) for each in given["branches"]]
            share = limits.penalized if part == "penalty" else 1.0
            return _scaled(max(branches, key=lambda each: each.total()), share)
        case "shard_map":  # what is inside is one device's, along these axes
            sizes = given["mesh"].shape
            devices = math.prod(sizes[axis] for axis in given["newly_manual_axes"])
            return _scaled(inside(given["jaxpr"]), devices)
    if kind.endswith("convolution"):  # a primitive of our own around JAX's
        given = {"inner": _traced(step)}
    nested = list(core.jaxprs_in_params(given))
    if nested and not kind.startswith(_COMBINING):
        # of functions that are called, and rules beside them
        return inside(nested[0])
    return Counter({part: _flop(step, kind, given)})


def _traced(step: Any) -> Any:
    """What a primitive whose implementation is JAX's own operations does."""
    shapes = [jax.ShapeDtypeStruct(each.aval.shape, each.aval.dtype) for each in step.invars]
    return jax.make_jaxpr(functools.partial(step.primitive.impl, **step.params))(*shapes)


def _flop(step: Any, kind: str, given: Any) -> float:
    results = [each.aval for each in step.outvars if hasattr(each.aval, "shape")]
    numbers = sum(math.prod(each.shape) for each in results if _is_number(each))
    if kind == "dot_general":
        (contracted, _), _ = given["dimension_numbers"]
        left = step.invars[0].aval.shape
        return float(2 * numbers * math.prod(left[axis] for axis in contracted))
    if kind == "conv_general_dilated":
        kernel, axes = step.invars[1].aval.shape, given["dimension_numbers"].rhs_spec
        spread = math.prod(given["lhs_dilation"])  # zeros between an image's pixels cost nothing
        return float(2 * numbers * math.prod(kernel) // kernel[axes[0]] // spread)
    if kind in _NO_ARITHMETIC or not numbers:
        return 0.0
    if kind.startswith("scatter"):  # as much as there is to add, multiply or compare
        return float(math.prod(step.invars[2].aval.shape))
    if kind.startswith(("reduce", "cum", "arg")):
        return float(sum(math.prod(each.aval.shape) for each in step.invars))
    return float(numbers)


def _is_number(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def _scaled(total: Counter[Part], times: float) -> Counter[Part]:
    return Counter({part: flop * times for part, flop in total.items()})


def _alive(jaxpr: Any) -> Iterator[Any]:
    """The steps that some result needs: the compiler leaves out the others, too."""
    wanted = {each for each in jaxpr.outvars if not isinstance(each, core.Literal)}
    kept: list[Any] = []
    for step in reversed(jaxpr.eqns):
        if step.effects or any(each in wanted for each in step.outvars):
            kept.append(step)
            wanted |= {each for each in step.invars if not isinstance(each, core.Literal)}
    yield from reversed(kept)
