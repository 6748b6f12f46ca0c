"""The precision of an equilibrium model: what its cell computes in, and how it is solved."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np

Precision: TypeAlias = Literal["float32", "bfloat16", "mixed"]
"""Of a cell: "mixed" is float32, solved by `deqjax.solvers.mixed_precision`."""


def cell_dtype(precision: Precision, states: np.dtype) -> np.dtype:
    """What a cell computes in, the dtype of the states unless that is bfloat16."""
    return jnp.dtype(jnp.bfloat16) if precision == "bfloat16" else states


def check_explicit(precision: Precision) -> None:
    """Raise a ValueError for a stack of layers whose precision is that of a solve."""
    if precision == "mixed":
        raise ValueError("dtype 'mixed' is a way to solve, and a stack of layers solves nothing.")
