"""The one loop that every solver runs: stopping, freezing, best iterate, trace.

A method is two pure functions: ``init(z0) -> memory`` and
``step(memory, z, fz, index) -> (z_next, memory)``. The loop evaluates f once per pass, measures the
residual of the iterate that it evaluated, and lets the method propose the next one. Samples never
meet: one that has stopped keeps its iterate while its batch mates go on.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from deqjax import _tree
from deqjax._manual_axes import vary, vary_like_result, varying_axes
from deqjax._types import PerSample, Scalar, State
from deqjax.solvers._solution import Solution, Stats, Status
from deqjax.solvers._validate import check_problem, static_steps

Memory = TypeVar("Memory")

# inside the loop: not decided yet; a plain int, since JAX types an enum member weakly
_RUNNING = int(Status.NOT_RUN)


class LoopOptions(TypedDict, total=False):
    """Options that every solver takes and hands to the loop.

    Attributes:
        stop: "relative" (default) compares ||f(z) - z|| / ||f(z)|| with tol, "absolute" the
            numerator alone.
        trace: rows of the residual trace to record, 0 for none; ``max_steps + 1`` shows all. A
            Python int, because it is a shape.
        axis_name: mapped axis over which replicas stop together; needed if f has collectives.
        differentiable: run exactly ``max_steps`` (then a Python int) passes in a form that reverse
            mode can differentiate, at memory proportional to max_steps.
    """

    stop: Literal["relative", "absolute"]
    trace: int
    axis_name: str | None
    differentiable: bool


class _Carry(NamedTuple):
    taken: jax.Array  # () int32, updates proposed so far
    running: jax.Array  # () bool, whether any sample goes on
    z: State  # current iterates
    memory: Any  # the method's own
    best: State  # best finite iterates
    residual: PerSample  # (batch,) residual of best
    steps: PerSample  # (batch,) int32
    status: PerSample  # (batch,) int32
    trace: jax.Array | None  # (rows, batch)


def iterate(
    f: Callable[[State], State],
    z0: State,
    *,
    init: Callable[[State], Memory],
    step: Callable[[Memory, State, State, jax.Array], tuple[State, Memory]],
    tol: Scalar,
    max_steps: Scalar,
    stop: Literal["relative", "absolute"] = "relative",
    trace: int = 0,
    axis_name: str | None = None,
    differentiable: bool = False,
) -> Solution:
    """Run a method until every sample has converged, diverged or taken ``max_steps`` steps."""
    z0 = check_problem(f, z0, tol=tol, max_steps=max_steps, stop=stop, trace=trace)
    z0 = vary_like_result(f, z0)
    dtype = _tree.accumulation_dtype(z0)
    batch = _tree.batch_size(z0)
    tol = jnp.asarray(tol, dtype)
    limit = jnp.asarray(max_steps, jnp.int32)

    def advance(carry: _Carry) -> _Carry:
        fz = f(carry.z)
        residual = measure(carry.z, fz, stop)
        active = carry.status == _RUNNING
        finite = jnp.isfinite(residual)
        status = jnp.where(active & ~finite, Status.DIVERGED, carry.status)
        status = jnp.where(active & finite & (residual <= tol), Status.CONVERGED, status)
        better = active & finite & (residual < carry.residual)
        goes_on = (status == _RUNNING) & (carry.taken < limit)

        proposal, memory = step(carry.memory, carry.z, fz, carry.taken)
        running = jnp.any(goes_on)
        if axis_name is not None:
            running = lax.pmax(running.astype(jnp.int32), axis_name) > 0
            # one value for all replicas, but the carry's type says that it varies
            running = vary(running, varying_axes(carry.running))
        rows = carry.trace
        if rows is not None:
            seen = jnp.where(active, residual, jnp.nan)
            rows = rows.at[carry.taken].set(seen, mode="drop")
        return _Carry(
            taken=carry.taken + 1,
            running=running,
            z=_tree.select(goes_on, proposal, carry.z),
            memory=memory,
            best=_tree.select(better, carry.z, carry.best),
            residual=jnp.where(better, residual, carry.residual),
            steps=carry.steps + goes_on.astype(jnp.int32),
            status=status,
            trace=rows,
        )

    start = _Carry(
        taken=jnp.int32(0),
        running=jnp.bool_(True),
        z=z0,
        memory=init(z0),
        best=z0,
        residual=jnp.full((batch,), jnp.inf, dtype),
        steps=jnp.zeros((batch,), jnp.int32),
        status=jnp.full((batch,), _RUNNING, jnp.int32),
        trace=jnp.full((trace, batch), jnp.nan, dtype) if trace else None,
    )
    start = vary(start, varying_axes(z0))
    if differentiable:
        length = static_steps(max_steps) + 1
        end, _ = lax.scan(lambda carry, _: (advance(carry), None), start, length=length)
    else:
        end = lax.while_loop(lambda carry: carry.running, advance, start)
    status = jnp.where(end.status == _RUNNING, Status.STEP_LIMIT, end.status)
    stats = Stats(end.steps, end.residual, status, end.taken, end.trace)
    return Solution(end.best, lax.stop_gradient(stats))


def measure(z: State, fz: State, stop: str) -> PerSample:
    """Residual of z per sample; not finite where f(z) or its norm is not.

    The residual only decides when to stop, so no gradient passes through it (and none of the
    infinite slope of the norm at zero).
    """
    z, fz = lax.stop_gradient((z, fz))
    change, size = _tree.norm(_tree.subtract(fz, z)), _tree.norm(fz)
    if stop == "relative":
        # f(z) = z = 0 is a fixed point, not 0 / 0
        ratio = change / jnp.where(size > 0, size, jnp.finfo(size.dtype).tiny)
        relative = jnp.where(change > 0, jnp.minimum(ratio, jnp.finfo(size.dtype).max), change)
        return jnp.where(jnp.isfinite(change) & jnp.isfinite(size), relative, jnp.nan)
    return jnp.where(jnp.isfinite(size), change, jnp.nan)
