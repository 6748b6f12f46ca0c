"""Counting evaluations one by one: columns of a Jacobian, and products with its transpose, too.

`runners.counting` counts what a batch costs, a mapped evaluation once. Here a dense Jacobian of n
columns has to count n, and trust-region methods pull gradients back. So the count is an operation
of its own, linear, whose derivative, transpose and mapped form count again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_tick = Primitive("count_an_evaluation")


class Counter:
    """How often a function was evaluated."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, rows: int) -> np.ndarray:
        """Count, and return the zero that the result depends on."""
        self.count += rows
        return np.zeros((), np.float32)

    def counting(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """Return f on arrays, counted whenever it, or its directional derivative, is computed."""
        return lambda *arguments: _tick.bind(f(*arguments), counter=self, rows=1)


def _compute(x: jax.Array, *, counter: Counter, rows: int) -> jax.Array:
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    # the operand keeps the callback inside of loops; narrow, since callbacks run where x64 is off
    seen = x.ravel()[0].astype(jnp.float32)
    zero = jax.pure_callback(lambda _: counter.note(rows), shape, seen)
    return x + zero.astype(x.dtype)


def _mapped(operands: Any, dimensions: Any, *, counter: Counter, rows: int) -> tuple[Any, Any]:
    (x,), (axis,) = operands, dimensions
    return _tick.bind(x, counter=counter, rows=rows * x.shape[axis]), axis


_tick.def_impl(jax.jit(_compute, static_argnames=("counter", "rows")))
_tick.def_abstract_eval(lambda x, **_: x)
mlir.register_lowering(_tick, mlir.lower_fun(_compute, multiple_results=False))
ad.deflinear2(_tick, lambda cotangent, _, **options: [_tick.bind(cotangent, **options)])
batching.primitive_batchers[_tick] = _mapped
