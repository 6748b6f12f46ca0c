"""The comparison of attractor language models with published outputs, for golden.py."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from golden_case import STEPS, TOL, Case, CaseError, Row, Solved, derivatives, equilibrium

from deqjax import solvers
from deqjax.convert import convert_attractor
from deqjax.models import AttractorLM


def attractor(case: Case) -> list[Row]:
    """One text: the prelude, the map and its products, the fixed point, and what is made of it."""
    model = convert_attractor(case.state, case.config)
    graph, state = nnx.split(model)
    tokens = jnp.asarray(case.array("tokens"), jnp.int32)
    y, v, published, context = (
        jnp.asarray(case.array(name), jnp.float32) for name in ("y", "v", "y_star", "context")
    )
    for given in (y, v, published, context):
        if given.shape != (*tokens.shape, model.shape.width):
            raise CaseError(
                f"a state has shape {given.shape}, but the tokens and n_embd make it "
                f"{(*tokens.shape, model.shape.width)}."
            )
    names = ("context", "f_y", "Jv", "vJ")
    found = _derivatives(graph, state, tokens, y, v)
    errors = {
        label: case.error(name, ours)
        for label, name, ours in zip(("c", "f(y)", "Jv", "vJ"), names, found, strict=True)
    }
    solved, note = equilibrium(
        lambda solver, z0: _solve_by(solver, graph, state, tokens, z0),
        published,
        lambda value: case.error("y_star", value),
    )
    logits, nll = solved.rest
    errors |= {
        "y*": case.error("y_star", solved.value),
        "logits": case.error("logits", logits),
        "nll": case.error("nll", nll),
    }
    return [Row(case.name, errors, note)]


@functools.partial(jax.jit, static_argnums=0)
def _derivatives(
    graph: nnx.GraphDef[AttractorLM],
    state: nnx.State[Any, Any],
    tokens: jax.Array,
    y: jax.Array,
    v: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    model = nnx.merge(graph, state, copy=True)
    u = model.inputs(tokens)
    return u.context, *derivatives(lambda y: model.deq.cell(y, u), y, v)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solve_by(
    solver: Callable[..., solvers.Solution],
    graph: nnx.GraphDef[AttractorLM],
    state: nnx.State[Any, Any],
    tokens: jax.Array,
    y0: jax.Array,
) -> Solved:
    """With the logits, and the next tokens' negative log-likelihoods."""
    model = nnx.merge(graph, state, copy=True)
    model.deq.solver = solver
    start = y0 - model.inputs(tokens).context
    prediction = model(tokens, z0=start, tol=TOL, max_steps=STEPS)
    solution = prediction.equilibrium.solution
    nll = model.negative_log_likelihood(prediction.states[:, :-1], tokens[:, 1:])
    residual = jnp.max(solution.stats.residual)
    return Solved(solution.value, (model.logits(prediction.states), nll), residual)
