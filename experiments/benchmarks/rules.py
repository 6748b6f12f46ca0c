"""Every gradient rule of the library, its time and its memory, against plain backpropagation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import deqjax
from cells import Cell
from timing import interleaved, milliseconds, ratio

BACKPROPAGATION = "backpropagation"
Row = dict[str, Any]
Loss = Callable[[Any, Any, Any], jax.Array]


class Rule(NamedTuple):
    """A gradient rule with the solver that it goes with.

    Attributes:
        name: as in the tables.
        solver: forward solver.
        adjoint: the rule.
        constant: by its design, memory does not grow with max_steps.
    """

    name: str
    solver: Callable[..., Any]
    adjoint: Any
    constant: bool


def rules(max_steps: int) -> list[Rule]:
    """Every rule that the library has."""
    adjoints, solvers = deqjax.adjoints, deqjax.solvers
    anderson, every = solvers.anderson, math.isqrt(max_steps)
    gmres = adjoints.implicit(solvers.gmres, tol=0.0, max_steps=max_steps)
    return [
        Rule("implicit, gmres", anderson, gmres, True),
        Rule("implicit", anderson, adjoints.implicit(tol=0.0, max_steps=max_steps), True),
        Rule("jacobian_free", anderson, adjoints.jacobian_free(), True),
        Rule("neumann(5)", anderson, adjoints.neumann(5), True),
        Rule("phantom(5)", anderson, adjoints.phantom(5), True),
        Rule("truncated(5)", anderson, adjoints.truncated(5), True),
        Rule("unrolled", anderson, adjoints.unrolled(), False),
        Rule("unrolled, checkpoints", anderson, adjoints.unrolled(checkpoint_every=every), False),
        Rule("shine", solvers.broyden, adjoints.shine(), True),
        Rule("reversible", solvers.reversible, adjoints.reversible(), True),
    ]


def loss_of(cell: Cell, rule: Rule, max_steps: int) -> Loss:
    """Mean square of the fixed point as a function of the weights."""

    def loss(weights, inputs, z0):
        solution = deqjax.fixed_point(
            cell.f,
            z0,
            weights,
            inputs,
            solver=rule.solver,
            adjoint=rule.adjoint,
            tol=0.0,
            max_steps=max_steps,
        )
        return _mean_square(solution.value)

    return loss


def backpropagation(cell: Cell, layers: int) -> Loss:
    """The same loss after so many layers with tied weights, differentiated as it stands."""

    def loss(weights, inputs, z0):
        def layer(z, _):
            return cell.f(z, weights, inputs), None

        return _mean_square(lax.scan(layer, z0, length=layers)[0])

    return loss


def _mean_square(state: Any) -> jax.Array:
    leaves = jax.tree.leaves(state)
    return sum(jnp.sum(x * x) for x in leaves) / sum(x.size for x in leaves)


def measure_rules(cell: Cell, max_steps: int, repeats: int) -> list[Row]:
    """Time and temporary memory of each rule at one number of steps."""
    problem = (cell.weights, cell.inputs, cell.z0)
    chosen = rules(max_steps)
    losses = {BACKPROPAGATION: backpropagation(cell, max_steps)}
    losses |= {rule.name: loss_of(cell, rule, max_steps) for rule in chosen}
    constant = {rule.name: rule.constant for rule in chosen}
    compiled = {}
    for name, loss in losses.items():
        compiled[name] = jax.jit(jax.value_and_grad(loss)).lower(*problem).compile()
        print(f"{cell.name}: {name}, {max_steps} steps, compiled", flush=True)
    runs = {name: partial(program, *problem) for name, program in compiled.items()}
    seconds = interleaved(runs, repeats)
    return [
        {
            "cell": cell.name,
            "rule": name,
            "max_steps": max_steps,
            "time_ms": milliseconds(seconds[name]),
            "over_backpropagation": ratio(seconds[name], seconds[BACKPROPAGATION]),
            "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
            "constant_by_design": constant.get(name, False),
            "repeats": repeats,
        }
        for name, program in compiled.items()
    ]
