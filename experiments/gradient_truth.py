"""What a reasoner's rule for the gradient is worth where its fixed point can be known."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax import solvers
from deqjax.diagnostics import TruthError, check_gradient
from deqjax.models import Reasoner, ReasonerStates
from deqjax.nn import DEQ

CYCLES = 12  # before the pass whose gradient is looked at: a puzzle is kept for several passes
LOOKED_AT = 64  # puzzles, of which those count whose fixed point is found best
NUMBERS = ("cosine", "norm_ratio", "relative_error", "distance")


def against_truth(
    model: Reasoner, layers: Mapping[str, DEQ], tokens: jax.Array, count: int, truth_steps: int
) -> dict[str, Any]:
    """Compare the gradients of one pass with that of the fixed point, both in cell and input.

    The pass starts where ``CYCLES`` cycles from random states end, as passes on a puzzle that is
    kept do, and has no noise. Puzzles whose fixed point no solver finds have no truth; those that
    are compared are the ``count`` with the smallest residual after an Anderson solve.

    Args:
        model: whose cell is iterated.
        layers: the layer of a training pass of each rule, of which solver, steps and rule count.
        tokens: (rows, N), rows at least ``count``.
        count: puzzles to compare.
        truth_steps: most steps of the truth.

    Returns:
        The `NUMBERS` of each rule, and the "residual" of the compared puzzles; with the sentence of
        the error as "no_truth" instead of the rules where none was found.
    """
    model.eval()
    graph, parameters, rest = nnx.split(model.deq.cell, nnx.Param, ...)

    def f(z: ReasonerStates, parameters: Any, x: jax.Array) -> ReasonerStates:
        return nnx.merge(graph, parameters, rest)(z, x)

    x = model.embed(tokens)
    z, residual = _begun(f, model.initial_states(*tokens.shape, jax.random.key(0)), parameters, x)
    best = jnp.argsort(residual)[:count]
    z, x = jax.tree.map(lambda leaf: leaf[best], (z, x))
    found: dict[str, Any] = {"residual": float(residual[best].max())}
    rules = {name: (_as_in_a_pass(layer), layer.adjoint) for name, layer in layers.items()}
    most = max(layer.max_steps for layer in layers.values())
    try:
        check = check_gradient(
            f, z, parameters, x, rules=rules, tol=0.0, max_steps=most, truth_steps=truth_steps
        )
    except TruthError as error:
        return found | {"no_truth": str(error)}
    rows = {name: {key: getattr(row, key) for key in NUMBERS} for name, row in check.rows.items()}
    return found | {"rules": rows, "truth_residual": check.truth_residual}


def _begun(f: Callable[..., Any], z: ReasonerStates, *args: Any) -> tuple[Any, jax.Array]:
    """The states after ``CYCLES`` cycles, and the residual that can be reached from there."""

    @jax.jit
    def begin(z: ReasonerStates, *args: Any) -> tuple[Any, jax.Array]:
        z = jax.lax.fori_loop(0, CYCLES, lambda _, z: f(z, *args), z)
        reached = solvers.anderson(lambda z: f(z, *args), z, tol=1e-6, max_steps=200)
        return z, reached.stats.residual

    return begin(z, *args)


def _as_in_a_pass(layer: DEQ) -> Callable[..., solvers.Solution]:
    """The layer's solver, for as many steps as a training pass of the layer takes with it."""

    def solve(f: Any, z0: Any, *, max_steps: Any, **more: Any) -> solvers.Solution:
        del max_steps  # one for all rules
        return layer.solver(f, z0, max_steps=layer.max_steps, **more)

    return solve
