"""Phantom gradients: backpropagation through a few damped steps that start at the fixed point."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.sharding import in_mesh_of
from deqjax._core.types import Scalar, State
from deqjax._core.validate import check_count, check_not_negative
from deqjax.adjoints._adjoint_state import no_steps
from deqjax.adjoints._clip import check_clip, cut_gradient
from deqjax.adjoints._pattern import Adjoint, Continuous, Kept, Pulled, WithBackward, at_each_point
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution, Status


def phantom(steps: int = 5, damping: Scalar = 0.5, *, clip: Scalar | None = None) -> Adjoint:
    """Gradients of a short damped loop that starts at the fixed point, which is held constant.

    The backward pass differentiates the last of the states

        h_0 = stop_gradient(z*),    h_(t+1) = (1 - damping) h_t + damping f(h_t)

    in the operands (Geng et al., NeurIPS 2021, arXiv 2111.05177: the unrolling-based phantom
    gradient).
    The solution's value stays z*. With damping 1 and an exact z* this is `neumann` with
    ``terms=steps``. Time and memory grow with ``steps``, not with the solver's steps.

    ``clip`` bounds it where f does not contract at z*: the cotangent that is pulled back through
    each step is cut per sample to a norm of at most clip * ||v||, v the cotangent of z*.

    A probe shows ``steps`` and ``Status.NOT_RUN``; a status of ``DIVERGED`` tells that the loop
    left the finite numbers, and the residual is then infinite, else zero.

    Args:
        steps: damped steps, at least 1; a Python int.
        damping: step length in (0, 1]; 1 is undamped; may be traced.
        clip: most of a pulled-back cotangent's norm over ||v||, 0 or more; None cuts nothing; may
            be traced.

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.

    Raises:
        ValueError, TypeError: steps that are no whole number >= 1, or a negative damping or clip.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def loss(a):  # z = a z + 1, so z* = 1 / (1 - a), with the derivative 4 at a = 0.5
        ...     return deqjax.fixed_point(
        ...         lambda z, a: a * z + 1,
        ...         jnp.zeros((1, 1)),
        ...         a,
        ...         adjoint=deqjax.adjoints.phantom(3),
        ...         tol=1e-6,
        ...     ).value.sum()
        >>> print(f"{jax.grad(loss)(0.5):.2f}")
        2.31
    """
    check_count("steps", steps)
    check_not_negative("damping", damping)
    check_clip(clip)
    return WithBackward(_DampedLoop(int(steps)), controls=(damping, clip))


@dataclasses.dataclass(frozen=True)
class _DampedLoop:
    """Backpropagation through the damped steps."""

    length: int

    def __call__(
        self,
        f: Callable[[State, Continuous], State],
        kept: Kept,
        continuous: Continuous,
        cotangents: Solution,
    ) -> Pulled:
        damping, clip = kept.controls

        def loop(start: State, continuous: Continuous, cotangent: State) -> State:
            def damped(h: State, _: None) -> tuple[State, None]:
                if clip is not None:
                    h = cut_gradient(h, cotangent, clip)
                return algebra.mix(h, f(h, continuous), damping), None

            return lax.scan(damped, start, length=self.length)[0]

        def pull(point: State, cotangent: State) -> tuple[State, Continuous]:
            end, pull_back = jax.vjp(lambda a: loop(point, a, cotangent), continuous)
            return end, pull_back(cotangent)[0]

        def pull_one(point: State, cotangent: State) -> tuple[Continuous, BackwardStats]:
            end, gradient = in_mesh_of(point, pull)(point, cotangent)
            finite = jnp.isfinite(algebra.largest(end)) & jnp.isfinite(algebra.largest(cotangent))
            residual = jnp.where(finite, 0.0, jnp.inf)
            status = jnp.where(finite, int(Status.NOT_RUN), int(Status.DIVERGED))
            return gradient, BackwardStats(no_steps(end) + self.length, residual, status)

        return at_each_point(kept.solution, cotangents, pull_one)
