"""Rules that linearize f at the fixed point: the way from the cotangent v to the adjoint state w.

At z* = f(z*, a) a cotangent v of z* becomes the cotangent (df/da)^T w of the operands a, where w
solves or approximates w = J^T w + v with J = df/dz at z*.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from deqjax import _tree
from deqjax._sharding import filled_per_sample
from deqjax._types import PerSample, State
from deqjax.adjoints._pattern import Continuous, Kept, Pulled, at_each_point
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution, Status
from deqjax.solvers._residual import residual_norm

Transpose: TypeAlias = Callable[[State], State]
"""w -> J^T w at the fixed point, linearized once."""


class Rule(Protocol):
    """The way from the cotangent v of z* to the adjoint state w.

    A function or a frozen dataclass: two rules of equal fields are equal, so that what was compiled
    for one serves the other.
    """

    def __call__(
        self, transpose: Transpose, cotangent: State, kept: Kept
    ) -> tuple[State, BackwardStats | PerSample]:
        """Return w and how it was found; the cotangent's samples are scaled to about 1.

        A rule without a solve of its own reports just its (batch,) steps: its residual is measured
        for it.
        """


@dataclasses.dataclass(frozen=True)
class ByAdjointState:
    """The backward pass that applies a rule at z*, and at each state of a trajectory."""

    rule: Rule

    def __call__(
        self,
        f: Callable[[State, Continuous], State],
        kept: Kept,
        continuous: Continuous,
        cotangents: Solution,
    ) -> Pulled:
        """Pull the cotangents back, as `deqjax.adjoints._pattern.Backward` says."""

        def pull_one(point: State, cotangent: State) -> tuple[Continuous, BackwardStats]:
            _, pull = jax.vjp(f, point, continuous)
            scale = _cotangent_scale(cotangent)
            scaled = rescale(cotangent, 1 / scale)
            w, report = self.rule(lambda w: pull(w)[0], scaled, kept)
            through_state, gradient = pull(rescale(w, scale))
            if not isinstance(report, BackwardStats):
                image = _tree.add(rescale(through_state, 1 / scale), scaled)
                report = _measured(report, w, image)
            return gradient, report

        return at_each_point(kept.solution, cotangents, pull_one)


def _measured(steps: PerSample, w: State, image: State) -> BackwardStats:
    residual = residual_norm(w, image, "relative")
    status = jnp.where(jnp.isfinite(residual), int(Status.NOT_RUN), int(Status.DIVERGED))
    return BackwardStats(steps, residual, status)


def _cotangent_scale(cotangent: State) -> PerSample:
    """Power of two next to each sample's largest magnitude.

    The mean over a large batch with loss scaling undone can leave cotangents near 1e-30. A zero or
    non-finite sample keeps scale 1: the solve reports it.
    """
    return _tree.power_of_two(lax.stop_gradient(_tree.largest(cotangent)))


def rescale(state: State, values: PerSample) -> State:
    """Multiply each sample by its number, formed wide: float16 may not hold the number itself."""
    return jax.tree.map(
        lambda x: (x.astype(values.dtype) * _tree.per_sample(values, x)).astype(x.dtype), state
    )


def no_steps(state: State) -> PerSample:
    """(batch,) zeros: the steps of a rule that takes none."""
    return filled_per_sample(state, 0, jnp.int32)
