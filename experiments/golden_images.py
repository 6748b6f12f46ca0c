"""The comparison of MDEQs with published outputs, for golden.py."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden_case import (
    LIMIT,
    STEPS,
    TOL,
    Case,
    CaseError,
    Row,
    Solved,
    anderson,
    derivatives,
    equilibrium,
)

from deqjax import solvers
from deqjax.convert import convert_mdeq
from deqjax.models import MDEQ

# how many applications of f are tried where a configuration does not say num_layers
MOST_LAYERS = 12


def mdeq(case: Case) -> list[Row]:
    """An MDEQ of any kind; errors of states are those of the branch where it is largest."""
    model = convert_mdeq(case.state, case.config)
    model.deq.solver, model.deq.adjoint = anderson, None
    graph, state = nnx.split(model)
    images = jnp.asarray(case.array("image"), jnp.float32)
    zeros = model.zero_state(*images.shape[:3])

    def branches(name: str) -> tuple[jax.Array, ...]:
        found = tuple(
            jnp.asarray(case.array(f"{name}_{i}"), zero.dtype) for i, zero in enumerate(zeros)
        )
        for i, (array, zero) in enumerate(zip(found, zeros, strict=True)):
            if array.shape != zero.shape:
                raise CaseError(
                    f"{name}_{i} has shape {array.shape}, but the images and the configuration "
                    f"make it {zero.shape}."
                )
        return found

    def worst(name: str, ours: Sequence[jax.Array]) -> float:
        return float(np.max([case.error(f"{name}_{i}", part) for i, part in enumerate(ours)]))

    injection, *maps = _derivatives(graph, state, images, branches("z"), branches("v"))
    errors = {"injection": case.error("injection", injection)}
    for label, name, ours in zip(("f(z)", "Jv", "vJ"), ("f_z", "Jv", "vJ"), maps, strict=True):
        errors[label] = worst(name, ours)
    solved, note = equilibrium(
        lambda solver, z0: _solve_by(solver, graph, state, images, z0),
        branches("z_star"),
        lambda value: worst("z_star", value),
    )
    errors |= {"z*": worst("z_star", solved.value), "output": case.error("output", solved.rest)}
    given = case.config.get("num_layers")
    for layers in range(1, MOST_LAYERS + 1) if given is None else [given]:
        unrolled = _unrolled(layers, graph, state, images)
        errors["unrolled"] = case.error("output_unrolled", unrolled)
        if errors["unrolled"] <= LIMIT:
            break
    if given is None:
        note = "; ".join(filter(None, [note, f"f applied {layers} times, as the outputs tell"]))
    return [Row(case.name, errors, note)]


@functools.partial(jax.jit, static_argnums=0)
def _derivatives(
    graph: nnx.GraphDef[MDEQ],
    state: nnx.State[Any, Any],
    images: jax.Array,
    z: tuple[jax.Array, ...],
    v: tuple[jax.Array, ...],
) -> tuple[Any, ...]:
    """The injection, f(z), J v and v J."""
    model = nnx.merge(graph, state, copy=True)
    u = model.inputs(images)
    return u.blocks[0].injection, *derivatives(lambda z: model.deq.cell(z, u), z, v)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solve_by(
    solver: Callable[..., solvers.Solution],
    graph: nnx.GraphDef[MDEQ],
    state: nnx.State[Any, Any],
    images: jax.Array,
    z0: tuple[jax.Array, ...],
) -> Solved:
    """With the logits."""
    model = nnx.merge(graph, state, copy=True)
    model.deq.solver = solver
    prediction = model(images, z0=z0, tol=TOL, max_steps=STEPS)
    solution = prediction.equilibria[0].solution
    return Solved(solution.value, prediction.logits, jnp.max(solution.stats.residual))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _unrolled(
    layers: int, graph: nnx.GraphDef[MDEQ], state: nnx.State[Any, Any], images: jax.Array
) -> jax.Array:
    return nnx.merge(graph, state, copy=True)(images, layers=layers).logits
