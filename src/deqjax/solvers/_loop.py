"""The one loop that every solver runs: stopping, freezing, best iterate, trace.

A method is two pure functions: ``init(z0) -> memory`` and
``step(memory, z, fz, seen) -> (z_next, memory)``. The loop evaluates f once per pass, measures the
iterate that it evaluated, and lets the method propose the next one. Samples never meet: one that
has stopped keeps its iterate while its batch mates go on.

The value returned is the iterate that converged, else the one that f changed least, unless the
caller wants another.

Inside, f takes the number of the pass too. A `numbered` f sees it, any other is wrapped.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.manual_axes import vary, varying_axes
from deqjax._core.residual import Measured, Norm, Stop, measure
from deqjax._core.sharding import filled_like, filled_per_sample, repeated, written
from deqjax._core.solution import Solution, Stats, Status
from deqjax._core.types import PerSample, Scalar, State
from deqjax._core.validate import (
    check_checkpoint,
    check_options,
    check_patience,
    check_problem,
    check_returns,
    check_trajectory,
    static_steps,
)
from deqjax.solvers._forgiving import measure_forgiving

Memory = TypeVar("Memory")
Returns: TypeAlias = Literal["best", "last", "image"]

# inside the loop: not decided yet; a plain int, since JAX types an enum member weakly
_RUNNING = int(Status.NOT_RUN)


class LoopOptions(TypedDict, total=False):
    """Options that every solver takes and hands to the loop.

    Attributes:
        stop: "relative" (default) compares ||f(z) - z|| / ||f(z)|| with tol, "absolute" the
            numerator alone.
        norm: "state" (default) takes these norms over all leaves together, "leaf" over each leaf,
            and each must reach tol: a leaf of small numbers cannot hide behind a large one.
        min_steps: updates that a sample takes before it may stop as converged, 0 (default) or more;
            () or (batch,), may be traced.
        returns: what a sample's value is. "best" (default): the iterate that converged, else the
            one that f changed least; its residual was measured. "last": where it did not converge,
            the last iterate at which f was finite, as a loop of so many steps returns it. "image":
            f of what "best" returns, which was evaluated anyway: nearer to the fixed point wherever
            f contracts, so that a looser tol reaches as far with fewer evaluations, but the
            residual reported is that of the iterate, not its own. The last two are not for methods
            whose iterates may be rejected trials, and "image" not for those whose states are pairs
            (reversible).
        numbered: f is ``f(z, step)`` with the number of updates that led to z, () int32: f may
            draw noise by it, or follow a schedule. `deqjax.fixed_point` sets it.
        trace: rows of the residual trace to record, 0 for none; ``max_steps + 1`` shows all. A
            Python int, because it is a shape.
        trajectory: steps whose iterates `Solution` shows, as increasing Python ints, for
            losses on intermediate states.
        axis_name: mapped axis over which replicas stop together; needed if f has collectives.
        differentiable: run exactly ``max_steps`` (then a Python int) passes in a form that reverse
            mode can differentiate, at memory proportional to max_steps.
        checkpoint_every: with ``differentiable``, keep the state of every so many passes only and
            run those between again in the backward pass; None keeps everything.
        patience: a sample stops after so many updates in a row of which none led to a state that f
            changes less than its best, 1 or more; None (default) waits for ``max_steps``. Its
            status is ``STEP_LIMIT``. Not with ``returns="last"``, which keeps no best.
    """

    stop: Stop
    norm: Norm
    min_steps: Scalar
    returns: Returns
    numbered: bool
    trace: int
    trajectory: tuple[int, ...]
    axis_name: str | None
    differentiable: bool
    checkpoint_every: int | None
    patience: int | None


class _Carry(NamedTuple):
    taken: jax.Array  # () int32, updates proposed so far
    running: jax.Array  # () bool, whether any sample goes on
    z: State  # current iterates
    memory: Any  # the method's own
    best: State  # best finite iterates
    measured: Measured  # of the best iterates
    steps: PerSample  # (batch,) int32
    status: PerSample  # (batch,) int32
    waited: PerSample | None  # (batch,) int32, passes since the best; None without patience
    trace: jax.Array | None  # (rows, batch)
    trajectory: State | None  # leaves (chosen steps, batch, ...)


class _Decided(NamedTuple):
    """What one pass means for each sample."""

    running: jax.Array  # () bool, whether any sample goes on
    active: PerSample  # (batch,) bool, whether the sample had not stopped before this pass
    better: PerSample  # (batch,) bool, whether z is the best iterate now
    goes_on: PerSample  # (batch,) bool
    steps: PerSample  # (batch,) int32
    status: PerSample  # (batch,) int32
    measured: Measured  # of the best iterates
    waited: PerSample | None  # (batch,) int32, passes since the best


class Pass(NamedTuple):
    """What the loop tells a method of the pass at hand."""

    number: jax.Array  # () int32, updates proposed so far
    change: PerSample  # (batch,) ||f(z) - z||
    residual: PerSample  # (batch,) what is compared with tol
    goes_on: PerSample  # (batch,) bool, whether the sample will take the proposal


def iterate(
    f: Callable[..., State],
    z0: State,
    *,
    init: Callable[[State], Memory],
    step: Callable[[Memory, State, State, Pass], tuple[State, Memory]],
    tol: Scalar,
    max_steps: Scalar,
    stop: Stop = "relative",
    norm: Norm = "state",
    min_steps: Scalar = 0,
    returns: Returns = "best",
    numbered: bool = False,
    trace: int = 0,
    trajectory: tuple[int, ...] = (),
    axis_name: str | None = None,
    differentiable: bool = False,
    checkpoint_every: int | None = None,
    patience: int | None = None,
    measure: Callable[[State, State, Stop, Norm], Measured] = measure,
    **unknown: object,
) -> tuple[Solution, Memory]:
    """Run a method until every sample has converged, diverged or taken ``max_steps`` steps.

    ``tol`` and ``max_steps`` may differ from sample to sample. Returns the solution and the
    method's memory after the last pass, which goes on for samples that have stopped.
    """
    check_options(unknown, LoopOptions.__annotations__)
    f = by_number(f, numbered)
    z0 = check_problem(
        at_start(f),
        z0,
        tol=tol,
        max_steps=max_steps,
        stop=stop,
        norm=norm,
        min_steps=min_steps,
        trace=trace,
    )
    check_returns(returns, rejects=measure is measure_forgiving)
    check_patience(patience, returns)
    check_trajectory(trajectory)
    check_checkpoint(checkpoint_every, differentiable)
    dtype = algebra.accumulation_dtype(z0)
    tol = jnp.asarray(tol, dtype)
    limit, least = jnp.asarray(max_steps, jnp.int32), jnp.asarray(min_steps, jnp.int32)

    def advance(carry: _Carry) -> _Carry:
        fz = f(carry.z, carry.taken)
        seen = measure(carry.z, fz, stop, norm)
        now = _decide(carry, seen, tol, limit, least, returns, patience)
        told = Pass(carry.taken, seen.change, seen.residual, now.goes_on)
        proposal, memory = step(carry.memory, carry.z, fz, told)
        running = now.running
        if axis_name is not None:
            running = lax.pmax(running.astype(jnp.int32), axis_name) > 0
            # one value for all replicas, but the carry's type says that it varies
            running = vary(running, varying_axes(carry.running))
        rows = carry.trace
        if rows is not None:
            row = jnp.where(now.active, seen.residual, jnp.nan)
            rows = written(rows, row, carry.taken, axis=0)
        chosen = carry.trajectory
        if chosen is not None:
            good = algebra.select(now.status == int(Status.DIVERGED), carry.best, carry.z)
            chosen = _record(chosen, good, carry.taken, trajectory)
        shown = fz if returns == "image" else carry.z
        best = algebra.select(now.better, shown, carry.best)
        return _Carry(
            taken=carry.taken + 1,
            running=running,
            # a sample that stops stays at its best; this also orders the last read of z before its
            # update, which then needs no copy
            z=algebra.select(now.goes_on, proposal, best),
            memory=memory,
            best=best,
            measured=now.measured,
            steps=now.steps,
            status=now.status,
            waited=now.waited,
            trace=rows,
            trajectory=chosen,
        )

    unmeasured, none = filled_per_sample(z0, jnp.inf, dtype), filled_per_sample(z0, 0, jnp.int32)
    start = _Carry(
        taken=jnp.int32(0),
        running=jnp.bool_(True),
        z=z0,
        memory=init(z0),
        best=z0,
        measured=Measured(unmeasured, unmeasured),
        steps=none,
        status=none + _RUNNING,
        waited=None if patience is None else none,
        trace=repeated(filled_like(unmeasured, jnp.nan), trace, axis=0) if trace else None,
        trajectory=_empty_trajectory(z0, len(trajectory)) if trajectory else None,
    )
    start = vary(start, varying_axes(z0))
    if differentiable:
        end = _repeat(advance, start, static_steps(max_steps) + 1, checkpoint_every)
    else:
        end = lax.while_loop(lambda carry: carry.running, advance, start)
    residual = end.measured.residual
    # the best of more steps than it needed may have been there before the last one
    unfinished = jnp.where(residual <= tol, Status.CONVERGED, Status.STEP_LIMIT)
    status = jnp.where(end.status == _RUNNING, unfinished, end.status)
    stats = Stats(end.steps, residual, status, end.taken, end.trace)
    chosen = end.trajectory
    if chosen is not None:
        chosen = _complete(chosen, end.best, end.taken, trajectory)
    return Solution(end.best, lax.stop_gradient(stats), chosen), end.memory


def _waited(
    carry: _Carry, seen: Measured, patience: int | None
) -> tuple[PerSample | None, PerSample | bool]:
    """Passes since the best, and whether that is not too long."""
    if carry.waited is None or patience is None:
        return None, True
    waited = jnp.where(seen.change < carry.measured.change, 0, carry.waited + 1)
    return waited, waited < patience


def _decide(
    carry: _Carry,
    seen: Measured,
    tol: jax.Array,
    limit: jax.Array,
    least: jax.Array,
    returns: Returns,
    patience: int | None,
) -> _Decided:
    """What the residual of this pass means for each sample."""
    # one without steps or patience left stays undecided, but has taken fewer updates since
    active = (carry.status == _RUNNING) & (carry.steps == carry.taken)
    finite = jnp.isfinite(seen.residual)
    converged = active & (seen.residual <= tol) & (carry.taken >= least)
    status = jnp.where(active & ~finite, Status.DIVERGED, carry.status)
    status = jnp.where(converged, Status.CONVERGED, status)
    preferred = (returns == "last") | (seen.change < carry.measured.change)
    better = active & finite & preferred | converged
    waited, patient = _waited(carry, seen, patience)
    goes_on = active & (status == _RUNNING) & (carry.taken < limit) & patient
    decided = _Decided(
        running=jnp.any(goes_on),
        active=active,
        better=better,
        goes_on=goes_on,
        steps=carry.steps + goes_on.astype(jnp.int32),
        status=status,
        measured=algebra.select(better, seen, carry.measured),
        waited=waited,
    )
    # all at once: formed where each is used, some of the old values would be copied for the others
    held: _Decided = lax.optimization_barrier(decided)
    return held


def by_number(f: Callable[..., State], numbered: bool) -> Callable[[State, jax.Array], State]:
    """F as a function of z and the number of the pass, whether it sees the number or not."""
    return f if numbered else lambda z, step: f(z)


def at_start(f: Callable[[State, jax.Array], State]) -> Callable[[State], State]:
    """F as the first pass sees it."""
    return lambda z: f(z, vary(jnp.int32(0), varying_axes(z)))


def _repeat(
    advance: Callable[[_Carry], _Carry], start: _Carry, passes: int, checkpoint_every: int | None
) -> _Carry:
    """A loop of static length, which reverse mode can differentiate."""

    def run(carry: _Carry, length: int) -> _Carry:
        return lax.scan(lambda c, _: (advance(c), None), carry, length=length)[0]

    if checkpoint_every is None:
        return run(start, passes)
    segments, rest = divmod(passes, checkpoint_every)
    segment = jax.checkpoint(lambda carry: run(carry, checkpoint_every))
    end, _ = lax.scan(lambda c, _: (segment(c), None), start, length=segments)
    return run(end, rest) if rest else end


def _empty_trajectory(z0: State, length: int) -> State:
    return jax.tree.map(lambda x: repeated(filled_like(x, 0), length, axis=0), z0)


def _record(rows: State, z: State, taken: jax.Array, steps: tuple[int, ...]) -> State:
    """Write z to the row of step ``taken``, if that step was chosen."""
    hit = jnp.asarray(steps, taken.dtype) == taken
    row = jnp.where(jnp.any(hit), jnp.argmax(hit), len(steps))
    return jax.tree.map(lambda r, x: written(r, x, row, axis=0), rows, z)


def _complete(rows: State, z: State, passes: jax.Array, steps: tuple[int, ...]) -> State:
    """Fill the rows of steps that the solve ended before with its result."""
    reached = jnp.asarray(steps, passes.dtype) < passes
    return jax.tree.map(
        lambda r, x: jnp.where(reached.reshape(-1, *(1,) * x.ndim), r, x[None]), rows, z
    )
