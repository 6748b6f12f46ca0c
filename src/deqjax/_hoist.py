"""Turning a user's f with its closures into a pure function of arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from deqjax._manual_axes import vary, varying_axes
from deqjax._types import Map, Operands, State
from deqjax.solvers import Solution
from deqjax.solvers._validate import check_map


@dataclass(frozen=True)
class PureMap:
    """``f(z, operands) -> z'``, closing over no array.

    Attributes:
        evaluate: the same of bare operands.
        numbered: whether f sees the number of the step; operands then have to say it.
    """

    evaluate: Callable[[State, Operands], State]
    numbered: bool = False

    def __call__(self, z: State, operands: Operands) -> State:
        """Evaluate f at z.

        Raises:
            TypeError: f sees the number of the step, and the operands do not say it.
        """
        if self.numbered and not isinstance(operands, _AtStep):
            raise TypeError(
                "f takes the step (numbered=True), and this adjoint evaluates it without: solve by "
                "deqjax.adjoints.solve_forward, and differentiate at f.at_end(operands, solution)."
            )
        return self.evaluate(z, operands)

    def at_step(self, operands: Operands, step: jax.Array) -> Operands:
        """The operands of an evaluation after so many updates."""
        return _AtStep(operands, step) if self.numbered else operands

    def at_end(self, operands: Operands, solution: Solution) -> Operands:
        """The operands of the last evaluation of a solve: after the slowest sample's updates."""
        return self.at_step(operands, last_step(solution))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _AtStep:
    """Operands of one evaluation."""

    operands: Operands
    step: jax.Array  # () int32


def last_step(solution: Solution) -> jax.Array:
    """() int32: the updates of the slowest sample, after which f was evaluated last."""
    return jnp.max(solution.stats.steps)


def hoist(
    f: Map, z0: State, args: tuple[Any, ...], numbered: bool = False
) -> tuple[PureMap, Operands]:
    """Trace f once and lift every array that it closes over into its operands.

    A `custom_vjp` rule neither sees nor differentiates what its function closes over, so parameters
    used through a closure would get no gradient. Unlike `jax.closure_convert` this lifts integers
    and keys too, which `vmap` may batch.

    Returns:
        ``pure(z, operands)`` and the operands, a pytree of arrays.

    Raises:
        ValueError, TypeError: f changes the structure, a shape or a dtype of z.
    """
    if numbered:
        step = vary(jnp.int32(0), varying_axes(z0))
        closed, result = jax.make_jaxpr(
            lambda z, step, *args: f(z, *args, step=step), return_shape=True
        )(z0, step, *args)
    else:
        closed, result = jax.make_jaxpr(f, return_shape=True)(z0, *args)
    check_map(result, z0)
    structure, constants = jax.tree.structure(z0), list(closed.consts)
    # without the arrays, which it would keep alive: they go in as operands (JAX 0.12 attaches them)
    jaxpr = closed.jaxpr.replace(constvars=closed.jaxpr.constvars)

    def pure(z: State, operands: Operands) -> State:
        step = []
        if isinstance(operands, _AtStep):
            operands, step = operands.operands, [operands.step]
        constants, leaves = operands
        outputs = jax.core.eval_jaxpr(jaxpr, constants, *jax.tree.leaves(z), *step, *leaves)
        return jax.tree.unflatten(structure, outputs)

    return PureMap(pure, numbered), (constants, jax.tree.leaves(args))
