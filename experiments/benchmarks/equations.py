"""What a problem of the robustness table is, and all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    """An equation in n unknowns, and where to start.

    Attributes:
        family: where it is from.
        name: its own.
        equation: ``equation(z, args)`` on arrays (n,): F, whose root is wanted, or the map.
        start: (n,) float64.
        args: whatever the equation takes; problems that differ in nothing else share a program.
        is_map: the equation is a fixed point's map, not an F.
    """

    family: str
    name: str
    equation: Callable[[jax.Array, Any], jax.Array]
    start: np.ndarray
    args: Any = ()
    is_map: bool = False


def problems() -> list[Problem]:
    """All problems, float64, in the order of the table."""
    # imported here: each of them imports Problem
    import equations_discretized
    import equations_random
    import equations_small
    import equations_standard

    found: list[Problem] = []
    modules = (equations_standard, equations_small, equations_discretized, equations_random)
    for module in modules:
        found += module.problems()
    return found


def as_map(problem: Problem) -> Callable[[jax.Array, Any], jax.Array]:
    """``f(z, args)`` on a batch of one, (1, n): the map itself, or z - F(z)."""
    equation, is_map = problem.equation, problem.is_map

    def f(z: jax.Array, args: Any) -> jax.Array:
        value = equation(z[0], args)[None]
        return value if is_map else z - value

    return f


def as_residual(problem: Problem) -> Callable[[jax.Array, Any], jax.Array]:
    """``F(z, args)`` on arrays (n,): z - f(z) where the problem is a map."""
    equation, is_map = problem.equation, problem.is_map

    def residual(z: jax.Array, args: Any) -> jax.Array:
        value = equation(z, args)
        return z - value if is_map else value

    return residual


def from_zero(size: int, value: float = 0.0) -> np.ndarray:
    """A start of equal numbers."""
    return np.full(size, value, np.float64)


def neighbours(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each entry's left and right neighbour, zero outside."""
    padded = jnp.pad(x, 1)
    return padded[:-2], padded[2:]
