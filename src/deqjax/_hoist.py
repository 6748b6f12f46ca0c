"""Turning a user's f with its closures into a pure function of arrays."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from deqjax._sharding import placed_like
from deqjax._types import Map, Operands, State
from deqjax.solvers._validate import check_map

PureMap: TypeAlias = Callable[[State, Operands], State]
"""``f(z, operands) -> z'``, closing over no array."""


def hoist(f: Map, z0: State, args: tuple[Any, ...]) -> tuple[State, PureMap, Operands]:
    """Trace f once and lift every array that it closes over into its operands.

    A `custom_vjp` rule neither sees nor differentiates what its function closes over, so parameters
    used through a closure would get no gradient. Unlike `jax.closure_convert` this lifts integers
    and keys too, which `vmap` may batch.

    Returns:
        z0 on the devices where f(z0) is, ``pure(z, operands)``, and the operands, a pytree of
        arrays.

    Raises:
        ValueError, TypeError: f changes the structure, a shape or a dtype of z.
    """
    closed, result = jax.make_jaxpr(f, return_shape=True)(z0, *args)
    check_map(result, z0)
    placed = placed_like(z0, result)
    if jax.tree.map(jax.typeof, placed) != jax.tree.map(jax.typeof, z0):
        return hoist(f, placed, args)  # what f's own transforms trace is typed by z, too
    structure, constants = jax.tree.structure(z0), list(closed.consts)
    # without the arrays, which it would keep alive: they go in as operands (JAX 0.12 attaches them)
    jaxpr = closed.jaxpr.replace(constvars=closed.jaxpr.constvars)

    def pure(z: State, operands: Operands) -> State:
        constants, leaves = operands
        outputs = jax.core.eval_jaxpr(jaxpr, constants, *jax.tree.leaves(z), *leaves)
        return jax.tree.unflatten(structure, outputs)

    return z0, pure, (constants, jax.tree.leaves(args))
