"""Rules that linearize f at the fixed point: the way from the cotangent v to the adjoint state w.

At z* = f(z*, a) a cotangent v of z* becomes the cotangent (df/da)^T w of the operands a, where w
solves or approximates w = J^T w + v with J = df/dz at z*.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.residual import residual_norm
from deqjax._core.sharding import filled_per_sample
from deqjax._core.types import PerSample, State
from deqjax.adjoints._pattern import Adjoint, Continuous, Kept, Pulled, WithBackward, at_each_point
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution, Status

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
            scaled = algebra.rescale(cotangent, 1 / scale)
            w, report = self.rule(lambda w: pull(w)[0], scaled, kept)
            through_state, gradient = pull(algebra.rescale(w, scale))
            if not isinstance(report, BackwardStats):
                image = algebra.add(algebra.rescale(through_state, 1 / scale), scaled)
                report = _measured(report, w, image)
            return gradient, report

        return at_each_point(kept.solution, cotangents, pull_one)


def by_adjoint_state(rule: Rule, *, controls: Any = ()) -> Adjoint:
    """An adjoint of your own from its formula for w; the gradient is then (df/da)^T w.

    f is linearized once at z*, with the cotangent v of z* and J = df/dz there. The rule returns
    what it takes for the solution of w = J^T w + v. The adjoint goes with every solver, serves
    reverse mode of any order, takes a trajectory and fills a probe: with the steps that the rule
    reports, the residual of its w in that equation, and ``Status.NOT_RUN`` (``DIVERGED`` if not
    finite).

    Args:
        rule: ``rule(transpose, v, kept) -> (w, steps)`` with ``transpose(w)`` = J^T w, states v and
            w like z, each sample's v scaled to about 1, and (batch,) int32 steps, or
            [`BackwardStats`][deqjax.adjoints.BackwardStats] where it knows residual and status
            itself. ``kept`` has ``kept.z0``, ``kept.solution`` and ``kept.controls``. A function or
            a frozen dataclass.
        controls: numbers of the rule that may be traced; it finds them in ``kept.controls``.

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def two_terms(transpose, v, kept):
        ...     w = jax.tree.map(jnp.add, v, transpose(v))
        ...     return w, jnp.ones(len(jax.tree.leaves(v)[0]), jnp.int32)
        >>> def loss(a):  # z = a z + 1, so z* = 1 / (1 - a), with the derivative 4 at a = 0.5
        ...     return deqjax.fixed_point(
        ...         lambda z, a: a * z + 1,
        ...         jnp.zeros((1, 1)),
        ...         a,
        ...         adjoint=deqjax.adjoints.by_adjoint_state(two_terms),
        ...         tol=1e-6,
        ...     ).value.sum()
        >>> print(f"{jax.grad(loss)(0.5):.2f}")
        3.00
    """
    return WithBackward(ByAdjointState(rule), controls=controls)


def _measured(steps: PerSample, w: State, image: State) -> BackwardStats:
    residual = residual_norm(w, image, "relative")
    status = jnp.where(jnp.isfinite(residual), int(Status.NOT_RUN), int(Status.DIVERGED))
    return BackwardStats(steps, residual, status)


def _cotangent_scale(cotangent: State) -> PerSample:
    """Power of two next to each sample's largest magnitude.

    The mean over a large batch with loss scaling undone can leave cotangents near 1e-30. A zero or
    non-finite sample keeps scale 1: the solve reports it.
    """
    return algebra.power_of_two(lax.stop_gradient(algebra.largest(cotangent)))


def no_steps(state: State) -> PerSample:
    """(batch,) zeros: the steps of a rule that takes none."""
    return filled_per_sample(state, 0, jnp.int32)
