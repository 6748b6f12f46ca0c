"""The aliases that signatures share, with shapes."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

State: TypeAlias = Any
"""A pytree of floating-point arrays, each of shape (batch, ...): one state z per sample."""

Operands: TypeAlias = Any
"""A pytree of arrays of any shape and dtype: parameters, input injection, keys."""

Map: TypeAlias = Callable[..., State]
"""``f(z, *args) -> z'``: the layer; z' has the structure, shapes and dtypes of z."""

PerSample: TypeAlias = jax.Array
"""One number per sample, shape (batch,)."""

Scalar: TypeAlias = jax.Array | float | int
"""A Python number or an array of shape ()."""
