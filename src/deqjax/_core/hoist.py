"""Turning a user's f with its closures into a pure function of arrays."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from deqjax._core.convolution import with_fast_convolutions
from deqjax._core.fingerprint import Key, of_map
from deqjax._core.manual_axes import vary, varying_axes
from deqjax._core.sharding import placed_like
from deqjax._core.solution import Solution
from deqjax._core.types import Map, Operands, State
from deqjax._core.validate import check_map


@dataclass(frozen=True)
class PureMap:
    """A map as it was traced: ``f(z, operands) -> z'``, closing over no array.

    Attributes:
        jaxpr: its equations, without the arrays that it captured.
        structure: of a state.
        numbered: whether f sees the number of the step; operands then have to say it.
    """

    jaxpr: Any
    structure: Any
    numbered: bool = False

    def __call__(self, z: State, operands: Operands) -> State:
        """Evaluate f at z.

        Raises:
            TypeError: f sees the number of the step, and the operands do not say it.
        """
        step = []
        if self.numbered:
            if not isinstance(operands, _AtStep):
                raise TypeError(
                    "f takes the step (numbered=True), and this adjoint evaluates it without: "
                    "solve by deqjax.adjoints.solve_forward, and differentiate at "
                    "f.at_end(operands, solution)."
                )
            operands, step = operands.operands, [operands.step]
        constants, leaves = operands
        outputs = jax.core.eval_jaxpr(self.jaxpr, constants, *jax.tree.leaves(z), *step, *leaves)
        return jax.tree.unflatten(self.structure, outputs)

    def key(self) -> Key:
        """Equal for maps that do the same, traced from the same code or from another."""
        return of_map(self.jaxpr, self.structure), self.numbered

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
    return jnp.max(solution.stats.steps).astype(jnp.int32)  # which some rules count in float32


def hoist(
    f: Map, z0: State, args: tuple[Any, ...], numbered: bool = False
) -> tuple[State, PureMap, Operands]:
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
    step = (vary(jnp.int32(0), varying_axes((z0, args))),) if numbered else ()

    # a new function each time: a known one JAX would not trace again, though a global changed that
    # it reads
    def evaluate(z: State, step: tuple[jax.Array, ...], *args: Any) -> State:
        return f(z, *args, step=step[0]) if step else f(z, *args)

    closed, result = jax.make_jaxpr(evaluate, return_shape=True)(z0, step, *args)
    check_map(result, z0)
    placed = placed_like(z0, result)
    if jax.tree.map(jax.typeof, placed) != jax.tree.map(jax.typeof, z0):
        # what f's own transforms trace is typed by z, too
        return hoist(f, placed, args, numbered)
    # without the arrays, which it would keep alive: they go in as operands (JAX 0.12 attaches them)
    jaxpr = closed.jaxpr.replace(constvars=closed.jaxpr.constvars)
    # what is hoisted goes into a solver's loop
    pure = PureMap(with_fast_convolutions(jaxpr), jax.tree.structure(z0), numbered)
    return z0, pure, (list(closed.consts), jax.tree.leaves(args))
