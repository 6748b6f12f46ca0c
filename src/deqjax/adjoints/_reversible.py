"""Reversible differentiation: exact gradients of a finite solve whose steps are undone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.coupled import CoupledState, in_full_width, in_width, like
from deqjax._core.manual_axes import vary, varying_axes
from deqjax._core.sharding import zeros_like
from deqjax._core.types import PerSample, Scalar, State
from deqjax._core.validate import check_not_negative
from deqjax.adjoints._pattern import Adjoint, Continuous, Kept, Pulled, WithBackward
from deqjax.adjoints._probe import BackwardStats
from deqjax.solvers import Solution, Status


class _Carry(NamedTuple):
    number: jax.Array  # () int32, the step to undo, counted from the start of the forward pass
    z: State  # the pair after that step
    y: State
    z_bar: State  # cotangents of the pair, from all that came later
    y_bar: State
    operands: Continuous  # their cotangent so far, in at least float32


def reversible(tol: Scalar = 1e-2) -> Adjoint:
    """Exact gradients of the steps that ``solvers.reversible`` took, at memory of a few states.

    Undoes each sample's steps one by one, from the iterate that was returned to the start,

        z_n = (z_(n+1) - beta f(y_(n+1))) / (1 - beta)
        y_n = (y_(n+1) - beta f(z_n)) / (1 - beta)

    and differentiates each in f's operands and the pair (McCallum et al. 2025, arXiv 2509.12917).
    The gradient is that of the finite iteration, converged or not, also with respect to z0 and to
    the rows of a trajectory. Memory does not grow with ``max_steps``. Cost per step: two vjps of f,
    whose primal values rebuild the states.

    A step that is undone enlarges rounding errors by 1 / (1 - beta) to 1 / (1 - beta)^2, the more
    the closer the Jacobian's eigenvalues are to 1 in magnitude. The report tells what was left: its
    residual is the distance of the rebuilt pair (z_0, y_0) from the start, relative to the larger
    of the norms of the start and of the end. Where f contracts the gradient's own relative error is
    smaller, since early states count least in it. A residual above ``tol`` is reported as
    ``Status.PRECISION_LOST``: the gradient is then not to be trusted. Measured up to a residual of
    1e-2, with eigenvalues up to 0.5 (0.9): float32 carries 13 (10) steps at damping 0.5 and 5 (4)
    at 0.8, float64 32 (25) and 13 (10). Beyond that use float64, a smaller damping for each step
    to lose less, or ``unrolled``. Matrix products of reduced precision that differ between the
    forward and the backward program count as rounding too.

    A second derivative is refused.

    Args:
        tol: largest residual of the report that counts as ``Status.CONVERGED``; may be traced.

    Returns:
        A rule for ``fixed_point(..., solver=deqjax.solvers.reversible, adjoint=...)``.

    Raises:
        ValueError: a negative tolerance.
        TypeError: at the solve, with another solver; at a second derivative.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def loss(a):  # of twelve steps; at the fixed point the derivative is 4
        ...     return deqjax.fixed_point(
        ...         lambda z, a: a * z + 1,
        ...         jnp.zeros((1, 1)),
        ...         a,
        ...         solver=deqjax.solvers.reversible,
        ...         adjoint=deqjax.adjoints.reversible(),
        ...         tol=1e-6,
        ...         max_steps=12,
        ...     ).value.sum()
        >>> print(f"{jax.grad(loss)(0.5):.2f}")
        3.67
    """
    check_not_negative("the backward tol", tol)
    return WithBackward(_undo_all, controls=tol, memory=CoupledState, needs="reversible")


def _undo_all(
    f: Callable[[State, Continuous], State],
    kept: Kept,
    continuous: Continuous,
    cotangents: Solution,
) -> Pulled:
    kept, continuous, cotangents = _only_once((kept, continuous, cotangents))
    memory: CoupledState = kept.solution.memory
    wide_f = in_full_width(f, kept.z0)
    beta = memory.damping

    def inject(z_bar: State, number: jax.Array) -> State:
        """Add the cotangents of what the solution shows of this step."""

        def leaf(bar: jax.Array, *shown: jax.Array) -> jax.Array:
            for steps, cotangent in zip(memory.shown, shown, strict=True):
                hit = algebra.per_sample(steps == number, bar)
                bar = bar + jnp.where(hit, cotangent.astype(bar.dtype), 0)
            return bar

        rows = cotangents.trajectory
        count = len(memory.shown) - 1
        shown = [jax.tree.map(lambda leaf, row=row: leaf[row], rows) for row in range(count)]
        return jax.tree.map(leaf, z_bar, cotangents.value, *shown)

    def undo(c: _Carry) -> _Carry:
        taken = memory.step >= c.number  # samples with fewer steps wait at their end
        z_bar = inject(c.z_bar, c.number)

        f_y, pull = jax.vjp(wide_f, c.y, continuous)
        z = algebra.select(taken, _undone(c.z, f_y, beta), c.z)
        through_y, of_operands = pull(_scaled(z_bar, beta))
        y_bar = algebra.add(c.y_bar, _where(taken, through_y))
        operands = _accumulated(c.operands, of_operands)

        f_z, pull = jax.vjp(wide_f, z, continuous)
        y = algebra.select(taken, _undone(c.y, f_z, beta), c.y)
        through_z, of_operands = pull(_scaled(y_bar, beta))
        return _Carry(
            number=c.number - 1,
            z=z,
            y=y,
            z_bar=algebra.add(_scaled(z_bar, 1 - beta), _where(taken, through_z)),
            y_bar=_scaled(y_bar, 1 - beta),
            operands=_accumulated(operands, of_operands),
        )

    start = _Carry(
        number=_common_length(memory),
        z=memory.z,
        y=memory.y,
        z_bar=zeros_like(memory.z),
        y_bar=zeros_like(memory.y),
        operands=zeros_like(in_width(continuous)),
    )
    end = lax.while_loop(lambda c: c.number > 0, undo, start)
    z_bar = algebra.add(inject(end.z_bar, jnp.int32(0)), end.y_bar)
    gradient = like(end.operands, continuous)
    return Pulled(gradient, _report(kept, memory, end, z_bar), like(z_bar, kept.z0))


def _common_length(memory: CoupledState) -> jax.Array:
    """The steps to undo; inside `jax.shard_map` the most of any device.

    There the cotangent of a replicated parameter is summed over the devices by each vjp, in which
    all of them must take part.
    """
    axes = varying_axes(memory.z)
    if not axes:
        return memory.longest
    longest: jax.Array = lax.pmax(vary(memory.longest, axes), tuple(axes))
    return longest


def _undone(new: State, image: State, beta: jax.Array) -> State:
    """(new - beta image) / (1 - beta), from the difference, which is small near a fixed point."""

    def leaf(x: jax.Array, fx: jax.Array) -> jax.Array:
        b = beta.astype(x.dtype)
        return x + b / (1 - b) * (x - fx)

    return jax.tree.map(leaf, new, image)


def _scaled(state: State, factor: jax.Array) -> State:
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, state)


def _where(mask: PerSample, state: State) -> State:
    """Exact zeros in the samples that wait, even where f has no derivative."""
    return algebra.select(mask, state, zeros_like(state))


def _accumulated(so_far: Continuous, more: Continuous) -> Continuous:
    return [a + b.astype(a.dtype) for a, b in zip(so_far, more, strict=True)]


def _report(kept: Kept, memory: CoupledState, end: _Carry, z_bar: State) -> BackwardStats:
    start = in_width(kept.z0)
    error = algebra.norm(algebra.subtract((end.z, end.y), (start, start)))
    size = jnp.maximum(algebra.norm(start), algebra.norm(memory.z))
    info = jnp.finfo(error.dtype)
    relative = jnp.where(error > 0, error / jnp.maximum(size, info.tiny), error)
    # states far off may be finite when the squares in their norm are not
    finite = jnp.isfinite(algebra.largest((end.z, end.y, z_bar)))
    residual = jnp.where(finite, jnp.minimum(relative, info.max), jnp.inf)
    status = jnp.where(
        residual <= kept.controls.astype(residual.dtype),
        int(Status.CONVERGED),
        int(Status.PRECISION_LOST),
    )
    return BackwardStats(memory.step, residual, jnp.where(finite, status, int(Status.DIVERGED)))


@jax.custom_vjp
def _only_once(tree: Any) -> Any:
    """Identity that cannot be differentiated: what follows is a loop that reverse mode cannot pass.

    Without it the refusal would come from the loop, and name neither the rule nor the way out.
    """
    return tree


def _refuse(*_: Any) -> Any:
    raise TypeError(
        "adjoints.reversible has no second derivative: use adjoints.unrolled() with the same "
        "solver, or adjoints.implicit()."
    )


_only_once.defvjp(_refuse, _refuse)
