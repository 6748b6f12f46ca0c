"""A debug check: does f give the same result twice at one z?"""

from typing import Any

import jax
import jax.numpy as jnp

from deqjax._core.types import Map, State

MESSAGE = "f is not deterministic across iterations: no fixed point exists"


class NotDeterministicError(RuntimeError):
    """Two evaluations of f at one z differ."""


def check_deterministic(f: Map, z: State, args: tuple[Any, ...]) -> None:
    """Evaluate f twice, traced anew each time, and raise where the results differ in any bit.

    Compares at z and at f(z): a mask that multiplies z shows nowhere at zero, the usual start.
    Outside jit this raises `NotDeterministicError` at once. Inside, the comparison happens
    when the compiled function runs, and the error reaches the caller through JAX's callback error.
    NaN counts as equal to NaN: a diverging f is a different matter.
    """
    after = f(z, *args)
    pairs = (after, f(z, *args)), (f(after, *args), f(after, *args))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(after)]
    counts = list(map(jnp.maximum, *(_differing(one, other) for one, other in pairs)))
    if any(isinstance(count, jax.core.Tracer) for count in counts):
        jax.debug.callback(lambda *values: _report(names, values), *counts)
    else:
        _report(names, counts)


def _differing(one: State, other: State) -> list[jax.Array]:
    """() int32 for each leaf: how many elements differ."""
    return [
        jnp.sum((a != b) & ~(jnp.isnan(a) & jnp.isnan(b)))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ]


def _report(names: list[str], counts: Any) -> None:
    differing = [f"z{n}: {int(c)} elements" for n, c in zip(names, counts, strict=True) if int(c)]
    if differing:
        raise NotDeterministicError(
            f"{MESSAGE} (two evaluations at one z differ in {', '.join(differing)}; "
            "draw random numbers once before the solve and pass them in through args)."
        )
