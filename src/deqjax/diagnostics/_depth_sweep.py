"""What more solver steps buy: residual, distance and any metric at each depth."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deqjax._core.hoist import hoist
from deqjax._core.residual import residual_norm
from deqjax._core.types import Map, Operands, Scalar, State
from deqjax._core.validate import check_not_negative, check_state
from deqjax.diagnostics._table import aligned
from deqjax.solvers import Solution, Status, anderson


class DepthSweep(NamedTuple):
    """How a solve depends on its number of steps; ``print`` shows it as a table.

    Attributes:
        steps: (depths,) int32, the step limits.
        residual: (depths, batch) float32 or float64, the residual that the solver reports for the
            state it returns.
        distance: (depths, batch), relative distance ||z_k - z|| / ||z|| to the state z of the
            deepest solve.
        status: (depths, batch) int32, a [`deqjax.Status`][].
        metrics: name -> (depths, ...), each metric at the returned state.
    """

    steps: jax.Array
    residual: jax.Array
    distance: jax.Array
    status: jax.Array
    metrics: dict[str, jax.Array]

    def __str__(self) -> str:
        """A table of medians and largest values over the batch, one line a depth."""
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self)):
            return repr(self)  # inside a transform there are no numbers to show
        columns = {"residual": self.residual, "distance": self.distance, **self.metrics}
        rows = [
            ["", "diverged", *itertools.chain(*((name, "") for name in columns))],
            ["steps", "samples", *("median", "largest") * len(columns)],
        ]
        for depth, step in enumerate(np.asarray(self.steps)):
            diverged = int(np.sum(np.asarray(self.status[depth]) == Status.DIVERGED))
            cells = [f"{step:5d}", str(diverged)]
            for values in columns.values():
                row = np.asarray(values[depth]).astype(np.float64)
                cells += [f"{np.median(row):.3g}", f"{np.max(row):.3g}"]
            rows.append(cells)
        return aligned(rows)


def depth_sweep(
    f: Map,
    z0: State,
    *args: Any,
    steps: Sequence[int] = (1, 2, 4, 8, 16, 32),
    solver: Callable[..., Solution] = anderson,
    metrics: Mapping[str, Callable[[State], Any]] | None = None,
    tol: Scalar = 0.0,
) -> DepthSweep:
    """Solve z = f(z, *args) with each step limit and measure the state that comes back.

    Every depth is a solve of its own from z0, so that its numbers hold for the state that the
    solver returns with that limit (its best iterate, not one on the way of a deeper solve). The
    limit is a run-time value: all depths run one after the other, the deepest first, in one
    compiled loop. Time: sum(steps) solver steps and one evaluation of each metric a depth; memory:
    that of one solve, one state and the results. A call outside jit compiles anew; within a jitted
    function the sweep is part of it.

    Works under jit, vmap and shard_map. The result carries no gradient.

    Args:
        f: ``f(z, *args) -> z'``.
        z0: start of every solve; leaves (batch, ...), real floating point.
        *args: pytrees of arrays, as for [`deqjax.fixed_point`][].
        steps: increasing step limits, Python ints >= 1.
        solver: ``solver(f, z0, *, tol, max_steps) -> Solution`` that takes a traced ``max_steps``.
        metrics: name -> function of z that JAX can trace, returning one array: (batch,) or any
            other shape, the same at each depth.
        tol: residual at which a sample stops before the limit; 0 lets every depth be used up.

    Returns:
        [`DepthSweep`][deqjax.diagnostics.DepthSweep].

    Raises:
        ValueError, TypeError: malformed steps, metrics, tol or problem, before anything is
            compiled.

    Examples:
        >>> import functools
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def f(z):
        ...     return 0.9 * z + jnp.array([1.0, 2.0])
        >>> z0 = jnp.zeros((3, 2))
        >>> radius = functools.partial(deqjax.spectral_radius, f, key=jax.random.key(0))
        >>> sweep = deqjax.depth_sweep(f, z0, steps=(1, 2, 4), metrics={"radius": radius})
        >>> print(sweep.steps, sweep.residual.shape, sweep.metrics["radius"][0].round(2))
        [1 2 4] (3, 3) [0.9 0.9 0.9]
        >>> bool(jnp.all(sweep.residual[0] > sweep.residual[1]))
        True
    """
    depths = _check_steps(steps)
    metrics = _check_metrics(metrics)
    check_not_negative("tol", tol)
    z0, pure, operands = hoist(f, check_state(z0), args)

    @jax.jit
    def sweep(z0: State, operands: Operands, depths: jax.Array, tol: Scalar) -> Any:
        def measure(deepest: State, depth: jax.Array) -> tuple[State, Any]:
            value, stats, *_ = solver(lambda z: pure(z, operands), z0, tol=tol, max_steps=depth)
            first = depth == depths[-1]
            deepest = jax.tree.map(lambda new, old: jnp.where(first, new, old), value, deepest)
            # the residual of z_k as a step towards the deepest state is their relative distance
            distance = residual_norm(value, deepest, "relative")
            found = {name: jnp.asarray(metric(value)) for name, metric in metrics.items()}
            return deepest, (stats.residual, distance, stats.status, found)

        # reversed, so that the state all others are compared with comes first and none is stored
        return lax.scan(measure, z0, depths, reverse=True)[1]

    inputs = lax.stop_gradient((z0, operands))
    limits = jnp.asarray(depths, jnp.int32)
    residual, distance, status, found = lax.stop_gradient(sweep(*inputs, limits, tol))
    # through jit a dictionary comes back sorted
    return DepthSweep(limits, residual, distance, status, {name: found[name] for name in metrics})


def _check_steps(steps: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(steps) if isinstance(steps, Sequence) else ()
    whole = chosen and all(type(step) is int and step >= 1 for step in chosen)
    if not whole or any(a >= b for a, b in itertools.pairwise(chosen)):
        raise ValueError(
            f"steps must be increasing Python ints >= 1, as in (1, 2, 4, 8), got {steps!r}."
        )
    return chosen


def _check_metrics(
    metrics: Mapping[str, Callable[[State], Any]] | None,
) -> Mapping[str, Callable[[State], Any]]:
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping) or not all(callable(m) for m in metrics.values()):
        raise TypeError(
            "metrics must map names to functions of z, as in "
            f"{{'norm': jnp.linalg.norm}}, got {metrics!r}."
        )
    return metrics
