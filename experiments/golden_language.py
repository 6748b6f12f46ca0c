"""The comparison of DEQ-Transformers with published outputs, for golden.py."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from golden_case import STEPS, TOL, Case, CaseError, Row, Solved, anderson, derivatives, equilibrium

from deqjax import solvers
from deqjax.convert import convert_deq_transformer
from deqjax.models import DEQTransformerLM, SegmentMemory


def deq_transformer(case: Case) -> list[Row]:
    """Two segments of a DEQ-Transformer, the second with the memory that the first hands on."""
    model = convert_deq_transformer(case.state, case.config)
    model.deq.solver, model.deq.adjoint = anderson, None
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
    solved, note = equilibrium(
        lambda solver, z0: _solve_by(solver, graph, state, window, memory, z0),
        published,
        lambda value: case.error(f"z_star_{segment}", value),
    )
    nll, memory = solved.rest
    # ours has its full length from the start and is filled from the end
    first = memory.states.shape[1] - int(memory.filled[0])
    errors |= {
        "z*": case.error(f"z_star_{segment}", solved.value),
        "nll": case.error(f"nll_{segment}", nll.T),
        "memory z": case.error(f"mem_z_{segment}", memory.states[:, first:]),
        "memory u": case.error(f"mem_u_{segment}", memory.injection[:, first:]),
    }
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
    model = nnx.merge(graph, state, copy=True)
    u = model.inputs(window[:, :-1], memory)
    return derivatives(lambda z: model.deq.cell(z, u), z, v)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solve_by(
    solver: Callable[..., solvers.Solution],
    graph: nnx.GraphDef[DEQTransformerLM],
    state: nnx.State[Any, Any],
    window: jax.Array,
    memory: SegmentMemory,
    z0: jax.Array,
) -> Solved:
    """With the targets' negative log-likelihoods and the memory after."""
    model = nnx.merge(graph, state, copy=True)
    model.deq.solver = solver
    prediction = model(window[:, :-1], memory, z0=z0, tol=TOL, max_steps=STEPS)
    solution = prediction.equilibrium.solution
    nll = model.negative_log_likelihood(prediction.states, window[:, 1:])
    return Solved(solution.value, (nll, prediction.memory), jnp.max(solution.stats.residual))
