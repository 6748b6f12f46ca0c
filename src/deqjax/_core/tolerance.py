"""The numbers of a backward solve, and a tolerance where nobody gave one: what z can show."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deqjax._core.types import Scalar, State

_OF_WIDE = 1e-5


def reachable(*dtypes: Any) -> float:
    """1e-5, or the distance from 1 to the next number of the coarsest dtype.

    That is 7.8e-3 for bfloat16 and 9.8e-4 for float16: of w and of J^T w + v each is rounded by up
    to half of it. On random maps of 32 and 256 dimensions in bfloat16, where solves by Anderson's
    method, Broyden's and GMRES could go no further, the residuals were at most 0.7 of it at radius
    0.5 and 0.9; at 0.97 nine tenths were at most 1.0 of it, and the largest was 2.0.
    """
    return max(_OF_WIDE, *(float(jnp.finfo(dtype).eps) for dtype in dtypes))


class Settled(NamedTuple):
    """The numbers of a solve, each () or (batch,)."""

    tol: Scalar
    max_steps: Scalar
    acceptable: Scalar  # residual above which the solve has failed


class Controls(NamedTuple):
    """What a rule was told of its backward solve; each number may be traced."""

    tol: Scalar | None
    max_steps: Scalar
    acceptable: Scalar | None = None

    def settled(self, state: State) -> Settled:
        """With the tolerance that the dtypes of a state can show, and what is acceptable: that."""
        tol = self.tol
        if tol is None:
            tol = reachable(*(leaf.dtype for leaf in jax.tree.leaves(state)))
        return Settled(tol, self.max_steps, tol if self.acceptable is None else self.acceptable)
