"""Adapter to the fixed-point solvers of JAXopt: for comparisons, and for what was tuned with them.

JAXopt sees the whole batch as one vector. What it reads of f is intercepted here, so that stopping,
status and the value returned go by each sample's own residual, at no evaluation of f more.
"""

import dataclasses
import importlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.flatten import ravel, unravel
from deqjax._core.manual_axes import vary, varying_axes
from deqjax._core.residual import Measured, measure
from deqjax._core.sharding import explicit_sharding
from deqjax._core.solution import Solution, Stats, Status
from deqjax._core.types import Map, PerSample, Scalar, State
from deqjax._core.validate import check_problem
from deqjax._extras import needs

_RUNNING = int(Status.NOT_RUN)

Pair: TypeAlias = tuple[State, State]
"""z and f(z), as JAXopt evaluated them."""


class _Method(NamedTuple):
    solver: str  # the class of JAXopt
    function: str  # its argument for the function
    measures_start: bool  # whether `init_state` keeps f(z0)
    defaults: dict[str, Any]  # where JAXopt's own depend on a static maxiter


_METHODS = {
    "anderson": _Method("AndersonAcceleration", "fixed_point_fun", False, {}),
    "fixed_point": _Method("FixedPointIteration", "fixed_point_fun", False, {}),
    "broyden": _Method("Broyden", "fun", True, {"history_size": 10}),
}

# settled here, without effect in this loop, or printing from inside it
_TAKEN = {
    *("fun", "fixed_point_fun", "has_aux"),
    *("tol", "maxiter", "stop_if_linesearch_fails"),
    *("implicit_diff", "implicit_diff_solve", "jit", "unroll", "verbose"),
}


class _Record(NamedTuple):
    value: State  # best finite iterates
    measured: Measured  # of these
    steps: PerSample  # (batch,) int32
    status: PerSample  # (batch,) int32


class _Carry(NamedTuple):
    updates: jax.Array  # () int32
    point: jax.Array  # (batch, features), where JAXopt stands
    state: Any  # JAXopt's own
    record: _Record


def jaxopt(
    f: Map,
    z0: State,
    *,
    tol: Scalar,
    max_steps: Scalar,
    method: Literal["anderson", "fixed_point", "broyden"] = "anderson",
    **jaxopt_options: Any,
) -> Solution:
    """Solve z = f(z) by a solver of JAXopt, which is no longer maintained and an optional package.

    - "anderson": ``jaxopt.AndersonAcceleration``, on f; one set of mixing weights for the batch.
    - "fixed_point": ``jaxopt.FixedPointIteration``, on f; Picard iteration.
    - "broyden": ``jaxopt.Broyden``, on z - f(z) = 0, so that JAXopt's start, the identity, makes
      the first step Picard's; one rank-1 update for the batch. Its line search, on by default,
      differentiates f backward and can stall where ``stepsize=1.0``, which turns it off, converges.

    JAXopt's ``update`` runs in a loop of this library's rule: a sample stops at its own relative
    residual ||f(z) - z|| / ||f(z)||, measured at the points where JAXopt itself evaluates f, and
    the loop ends once all samples have. JAXopt's stopping rule, an absolute error of the whole
    batch, is not used. Unlike this library's own solvers, the samples are not independent: weights
    and line searches are shared, and with "anderson" and "broyden" a sample that becomes NaN takes
    its batch mates with it. Each of them then reports ``DIVERGED`` and its best finite iterate.

    The batch is handed over as one array in the default float dtype (float32, or float64 under
    x64), whatever the leaves; f sees the dtypes of z0. Memory and cost per step are JAXopt's.

    Args:
        f: ``f(z) -> z'`` on pytrees whose leaves have the batch as axis 0.
        z0: start, leaves (batch, ...), real floating point.
        tol: a sample stops when its residual is at most this; may be traced.
        max_steps: most updates of z, at least 1; may be traced.
        method: which solver.
        **jaxopt_options: that solver's own options, as in ``history_size=8, ridge=1e-4`` or
            ``stepsize=1.0``. ``history_size`` of "broyden" is 10 if not given.

    Returns:
        [`deqjax.Solution`][] with the best finite iterate of each sample among those that JAXopt
        evaluated. ``stats.evaluations`` is JAXopt's count, which includes its line searches and,
        for "anderson", evaluating z0 twice.

    Raises:
        ImportError: JAXopt is not installed.
        ValueError, TypeError: a malformed problem, an unknown method, or an option that JAXopt does
            not have; the options of this library's loop (``trace``, ``differentiable``, ...) are
            among those.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.solvers import Status, jaxopt
        >>> f, z0 = lambda z: 0.5 * z + 1, jnp.zeros((2, 3))
        >>> solution = jaxopt(f, z0, tol=1e-3, max_steps=30, method="fixed_point")
        >>> print(solution.value[0].round(2), Status(int(solution.stats.status[0])).name)
        [2. 2. 2.] CONVERGED
    """
    if jaxopt_options.get("numbered"):
        raise ValueError(
            "jaxopt cannot number its evaluations (numbered=True): JAXopt calls f without saying "
            "at which step; use picard, anderson, broyden or newton_krylov."
        )
    z0 = check_problem(f, z0, tol=tol, max_steps=max_steps)
    if any(explicit_sharding(leaf) is not None for leaf in jax.tree.leaves(z0)):
        raise ValueError(
            "JAXopt knows no meshes with Explicit axes: make the mesh with axis_types="
            "(jax.sharding.AxisType.Auto,) for each axis, or use a solver of deqjax itself."
        )
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}.")
    chosen = _METHODS[method]
    solver = _build(chosen, _observable(f, z0, root=method == "broyden"), method, jaxopt_options)
    tol = jnp.asarray(tol, algebra.accumulation_dtype(z0))
    # the start is the first point measured; all but one method need an update for that
    limit = jnp.asarray(max_steps, jnp.int32) + int(not chosen.measures_start)

    def advance(carry: _Carry) -> _Carry:
        point, state = solver.update(carry.point, carry.state)
        taken = carry.updates + int(chosen.measures_start)
        record = _measure(carry.record, state.aux, taken, tol)
        # some fields start in another dtype than they go on in
        state = jax.tree.map(lambda new, old: new.astype(old.dtype), _bare(state), carry.state)
        return _Carry(carry.updates + 1, point, state, record)

    def running(carry: _Carry) -> jax.Array:
        unfinished: jax.Array = jnp.any(carry.record.status == _RUNNING)
        return unfinished & (carry.updates < limit)

    point = ravel(z0, jnp.result_type(float))
    state = solver.init_state(point)
    record = _empty_record(z0)
    if chosen.measures_start:
        record = _measure(record, state.aux, jnp.int32(0), tol)
    start = _Carry(jnp.int32(0), point, _settled(_bare(state)), record)
    end = lax.while_loop(running, advance, vary(start, varying_axes(z0)))
    status = jnp.where(end.record.status == _RUNNING, Status.STEP_LIMIT, end.record.status)
    evaluations = jnp.asarray(end.state.num_fun_eval, jnp.int32)
    residual = end.record.measured.residual
    stats = Stats(end.record.steps, residual, status, evaluations, None)
    return Solution(end.record.value, lax.stop_gradient(stats))


def _observable(
    f: Map, like: State, *, root: bool
) -> Callable[[jax.Array], tuple[jax.Array, Pair]]:
    """F as JAXopt is to see it, on one array, with what was evaluated on the side."""

    def evaluate(point: jax.Array) -> tuple[jax.Array, Pair]:
        z = unravel(point, like)
        fz = f(z)
        image = ravel(fz, point.dtype)
        return (point - image if root else image), (z, fz)

    return evaluate


def _build(
    method: _Method, function: Callable[..., Any], name: str, options: dict[str, Any]
) -> Any:
    solver = getattr(_import_jaxopt(), method.solver)
    known = sorted({field.name for field in dataclasses.fields(solver)} - _TAKEN)
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise TypeError(
            f"deqjax.solvers.jaxopt with method={name!r} has no option {unknown[0]!r}: JAXopt's "
            f"own are {', '.join(known)}."
        )
    return solver(
        **{method.function: function},
        has_aux=True,
        implicit_diff=False,
        unroll=False,
        **method.defaults | options,
    )


def _import_jaxopt() -> ModuleType:
    with warnings.catch_warnings():
        # it says on import that it is no longer maintained, as the docstring here does
        warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
        with needs("jaxopt", "deqjax.solvers.jaxopt"):
            return importlib.import_module("jaxopt")


def _bare(state: Any) -> Any:
    """JAXopt's state without the pair, which has been read."""
    return state._replace(aux=None)


def _settled(state: Any) -> Any:
    """Arrays of settled dtype: a weak type would change inside the loop."""
    return jax.tree.map(lambda x: lax.convert_element_type(x, jnp.asarray(x).dtype), state)


def _empty_record(z0: State) -> _Record:
    zeros = jnp.zeros((algebra.batch_size(z0),), jnp.int32)
    unmeasured = jnp.full_like(zeros, jnp.inf, algebra.accumulation_dtype(z0))
    return _Record(z0, Measured(unmeasured, unmeasured), zeros, zeros + _RUNNING)


def _measure(record: _Record, pair: Pair, taken: jax.Array, tol: jax.Array) -> _Record:
    """Judge the iterate that JAXopt evaluated after ``taken`` steps, sample by sample."""
    z, fz = pair
    seen = measure(z, fz)
    active = record.status == _RUNNING
    finite = jnp.isfinite(seen.residual)
    converged = active & (seen.residual <= tol)
    better = active & finite & (seen.change < record.measured.change) | converged
    status = jnp.where(active & ~finite, Status.DIVERGED, record.status)
    return _Record(
        value=algebra.select(better, z, record.value),
        measured=algebra.select(better, seen, record.measured),
        steps=jnp.where(active, taken, record.steps),
        status=jnp.where(converged, Status.CONVERGED, status),
    )
