"""Solves outside of jit: a map that was seen before runs the program that was compiled then.

Each call traces f, which takes milliseconds, and finds the program by what was traced. The solver,
its options and the rule for the gradient are part of the key; arrays are arguments, so that a
program keeps none of them alive.
"""

import collections
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deqjax._core import algebra, fingerprint
from deqjax._core.hoist import PureMap
from deqjax._core.types import Operands, Scalar, State
from deqjax.adjoints import Adjoint, BackwardStats
from deqjax.adjoints._both_modes import BothModes
from deqjax.adjoints._pattern import WithBackward
from deqjax.solvers import Solution

MOST_PROGRAMS = 128
"""Programs that are kept; of more, the one that was used longest ago goes."""

_programs = collections.OrderedDict[fingerprint.Key, Callable[..., Solution]]()
_lock = threading.Lock()


def clear_programs() -> None:
    """Forget the programs that solves outside of `jax.jit` have left behind.

    There are 128 at most, of the maps that were solved last, and they hold no arrays of yours.

    Examples:
        >>> import jax.numpy as jnp
        >>> import deqjax
        >>> solution = deqjax.fixed_point(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)))
        >>> deqjax.clear_programs()  # the next solve of this map compiles again
    """
    with _lock:
        _programs.clear()


def solve(
    rule: Adjoint,
    pure: PureMap,
    z0: State,
    operands: Operands,
    *,
    solver: Callable[..., Solution],
    tol: Scalar,
    max_steps: Scalar,
    probe: BackwardStats | None,
) -> Solution:
    """``rule(pure, z0, operands, ...)``; outside of jit by a program that may be there already."""
    limits = {"tol": tol, "max_steps": max_steps}
    config: Any = jax.config  # JAX 0.10 types it without its options
    # inside of jit, of scan, of make_jaxpr even an operation on constants is traced
    if config.jax_disable_jit or isinstance(jnp.zeros(()), jax.core.Tracer):
        return rule(pure, z0, operands, solver=solver, probe=probe, **limits)
    static, numbers = _split(rule, limits, z0)
    try:
        key = (pure.key(), fingerprint.of_settings((solver, static)))
        program = _find(key, lambda: _compile(static, pure, solver))
    except fingerprint.NoFingerprintError:
        return rule(pure, z0, operands, solver=solver, probe=probe, **limits)
    return program(z0, operands, numbers, probe)


def _split(rule: Any, limits: dict[str, Any], z0: State) -> tuple[Any, Any]:
    """What a program is compiled for, and the numbers that it takes at run time."""
    if not isinstance(rule, WithBackward | BothModes):  # these two take them as arrays
        return (rule, limits), ((), {})
    limits = {
        "tol": jnp.asarray(limits["tol"], algebra.accumulation_dtype(z0)),
        "max_steps": jnp.asarray(limits["max_steps"], jnp.int32),
    }
    controls = jax.tree.map(jnp.asarray, rule.controls)
    emptied: Any = {"controls": ()}
    return (dataclasses.replace(rule, **emptied), {}), (controls, limits)


def _compile(
    static: Any, pure: PureMap, solver: Callable[..., Solution]
) -> Callable[..., Solution]:
    """A program for all arrays of the types that it meets, and for each of JAX's settings."""
    rule, fixed = static

    @jax.jit
    def fixed_point(z0: State, operands: Operands, numbers: Any, probe: Any) -> Solution:
        controls, limits = numbers
        filled = rule if fixed else dataclasses.replace(rule, controls=controls)
        solution: Solution = filled(
            pure, z0, operands, solver=solver, probe=probe, **fixed, **limits
        )
        return solution

    return fixed_point


def _find(
    key: fingerprint.Key, make: Callable[[], Callable[..., Solution]]
) -> Callable[..., Solution]:
    with _lock:
        program = _programs.pop(key, None) or make()
        _programs[key] = program
        if len(_programs) > MOST_PROGRAMS:
            _programs.popitem(last=False)
    return program
