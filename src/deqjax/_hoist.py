"""Turning a user's f with its closures into a pure function of arrays."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from deqjax._fingerprint import Key, of_map
from deqjax._types import Map, Operands, State
from deqjax.solvers._validate import check_map

PureMap: TypeAlias = Callable[[State, Operands], State]
"""``f(z, operands) -> z'``, closing over no array."""


class Traced:
    """A map as it was traced: ``f(z, operands) -> z'``, closing over no array."""

    def __init__(self, jaxpr: Any, structure: Any) -> None:
        self.jaxpr = jaxpr
        self.structure = structure  # of a state

    def __call__(self, z: State, operands: Operands) -> State:
        constants, leaves = operands
        outputs = jax.core.eval_jaxpr(self.jaxpr, constants, *jax.tree.leaves(z), *leaves)
        return jax.tree.unflatten(self.structure, outputs)

    def key(self) -> Key:
        """Equal for maps that do the same, traced from the same code or from another."""
        return of_map(self.jaxpr, self.structure)


def hoist(f: Map, z0: State, args: tuple[Any, ...]) -> tuple[Traced, Operands]:
    """Trace f once and lift every array that it closes over into its operands.

    A `custom_vjp` rule neither sees nor differentiates what its function closes over, so parameters
    used through a closure would get no gradient. Unlike `jax.closure_convert` this lifts integers
    and keys too, which `vmap` may batch.

    Returns:
        ``pure(z, operands)`` and the operands, a pytree of arrays.

    Raises:
        ValueError, TypeError: f changes the structure, a shape or a dtype of z.
    """
    # a new function each time: a known one JAX would not trace again, though a global changed that
    # it reads
    closed, result = jax.make_jaxpr(functools.partial(f), return_shape=True)(z0, *args)
    check_map(result, z0)
    # without the arrays, which it would keep alive: they go in as operands (JAX 0.12 attaches them)
    jaxpr = closed.jaxpr.replace(constvars=closed.jaxpr.constvars)
    return Traced(jaxpr, jax.tree.structure(z0)), (list(closed.consts), jax.tree.leaves(args))
