"""Truncated backpropagation: a solve without gradient, then a few steps that have one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.hoist import PureMap, last_step
from deqjax._core.residual import measure
from deqjax._core.types import Operands, Scalar, State
from deqjax._core.validate import check_count, check_not_negative
from deqjax.adjoints._forward import solve_forward
from deqjax.adjoints._pattern import Adjoint
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution, Stats, Status


def truncated(steps: Scalar, *, most: int | None = None, damping: Scalar = 1.0) -> Adjoint:
    """Solve without gradient, take ``steps`` more, return their end and differentiate them alone.

    With z* as the solver returned it, the value is the last of the states

        h_0 = stop_gradient(z*),    h_(t+1) = (1 - damping) h_t + damping f(h_t)

    and the gradient that of these steps: backpropagation through time, cut after ``steps``. The
    recursive reasoners train so: Huginn (Geiping et al. 2025, arXiv 2502.05171) with the steps of
    the solve drawn at random, the tiny recursive model (Jolicoeur-Martineau 2025, arXiv 2510.04871)
    with one cycle that has a gradient. [`phantom`][deqjax.adjoints.phantom] differentiates the same
    steps and returns z* instead. To take all steps of a loop plainly, solve with
    ``partial(picard, returns="last")`` and ``tol=0.0``.

    Plain JAX: forward mode and derivatives of any order work. No gradient reaches z0. Time and
    memory of the gradient grow with ``steps`` (or ``most``), not with the solver's steps. A step
    that is not taken costs nothing, but under `jax.vmap` of ``steps``.

    The stats are those of the value: ``residual`` is measured at it by one evaluation more, with
    the ``stop`` and ``norm`` of a solver that is a `functools.partial`, and ``status`` says how it
    compares with tol. ``steps`` and ``evaluations`` count the solve, the steps and that evaluation.
    A trace is the solve's, and rows of a trajectory are the solve's without gradient. Where f sees
    the step's number, these steps count on from the solve's slowest sample. There is no backward
    solve, so a probe stays zero (``Status.NOT_RUN``).

    Args:
        steps: number k of steps with a gradient, at least 1; may be traced, () int32.
        most: largest k, a Python int; needed where ``steps`` is traced, and cuts it off.
        damping: step length in (0, 1]; 1 is undamped; may be traced.

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.

    Raises:
        ValueError, TypeError: steps or most that are no whole numbers >= 1, steps above most,
            traced steps without most, or a negative damping.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def loss(a):  # z = a z + 1, so z* = 1 / (1 - a), with the derivative 4 at a = 0.5
        ...     return deqjax.fixed_point(
        ...         lambda z, a: a * z + 1,
        ...         jnp.zeros((1, 1)),
        ...         a,
        ...         adjoint=deqjax.adjoints.truncated(3),
        ...         tol=1e-6,
        ...     ).value.sum()
        >>> print(f"{jax.grad(loss)(0.5):.2f}")
        3.50
    """
    check_count("steps", steps)
    check_not_negative("damping", damping)
    if most is None:
        if isinstance(steps, jax.Array):
            raise TypeError(
                "steps is an array, known at run time only: give most, the largest number of "
                "steps, as a Python int."
            )
        most = int(steps)
    if type(most) is not int:
        raise TypeError(f"most must be a Python int, because it is a shape, got {most!r}.")
    check_count("most", most)
    if isinstance(steps, jax.Array):
        return _Truncated(most, (steps, damping))
    if steps > most:
        raise ValueError(f"steps must be at most most={most}, got {steps}.")
    return _Truncated(int(steps), (int(steps), damping))


@dataclasses.dataclass(frozen=True)
class _Truncated:
    """The solve, and the steps after it."""

    length: int
    controls: tuple[Scalar, Scalar]  # steps and damping

    def __call__(
        self,
        f: PureMap,
        z0: State,
        operands: Operands,
        *,
        solver: Callable[..., Solution],
        tol: Scalar,
        max_steps: Scalar,
        probe: BackwardStats | None,
    ) -> Solution:
        """Return the end of the steps, differentiable in the operands through them."""
        del probe  # no backward solve to report
        held = lax.stop_gradient((z0, operands))
        solved = solve_forward(f, *held, solver=solver, tol=tol, max_steps=max_steps)
        solved = lax.stop_gradient(solved)
        steps, damping = self.controls
        first = last_step(solved)

        def take(z: State, index: jax.Array) -> State:
            return algebra.mix(z, f(z, f.at_step(operands, first + index)), damping)

        def advance(z: State, index: jax.Array) -> tuple[State, None]:
            if isinstance(steps, int):
                return take(z, index), None
            return lax.cond(index < steps, take, lambda z, _: z, z, index), None

        end, _ = lax.scan(advance, solved.value, jnp.arange(self.length, dtype=jnp.int32))
        taken = jnp.minimum(jnp.asarray(steps, jnp.int32), self.length)
        image = f(*lax.stop_gradient((end, f.at_step(operands, first + taken))))
        stats = _measured(solved.stats, end, image, taken, tol, getattr(solver, "keywords", {}))
        return Solution(end, stats, solved.trajectory)


def _measured(
    solved: Stats, z: State, image: State, taken: jax.Array, tol: Scalar, options: dict[str, Any]
) -> Stats:
    """The stats of z, which is ``taken`` steps beyond the solve's result."""
    chosen = {name: options[name] for name in ("stop", "norm") if name in options}
    residual = measure(z, image, **chosen).residual
    finite = jnp.isfinite(residual)
    reached = jnp.where(residual <= tol, int(Status.CONVERGED), int(Status.STEP_LIMIT))
    return solved._replace(
        steps=solved.steps + taken,
        residual=jnp.where(finite, residual, jnp.inf),
        status=jnp.where(finite, reached, int(Status.DIVERGED)),
        evaluations=solved.evaluations + taken + 1,
    )
