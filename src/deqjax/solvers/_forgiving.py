"""Measuring for methods that take trial steps, and can go back from where f has no value.

The loop gives up a sample whose residual is not finite. For a search that is a trial to reject,
so it is told a huge residual instead; where it knows no way back it proposes NaN, and is given up.
"""

import jax
import jax.numpy as jnp

from deqjax._core import algebra
from deqjax._core.residual import Measured, Norm, Stop, measure
from deqjax._core.solution import Stats, Status
from deqjax._core.types import State


def measure_forgiving(z: State, fz: State, stop: Stop, norm: Norm) -> Measured:
    """What the loop measures; the largest number where that is not finite at a z without NaN."""
    seen = measure(z, fz, stop, norm)
    most = largest_number(seen.residual)
    rejected = ~jnp.isfinite(seen.residual) & ~jnp.isnan(algebra.largest(z))
    return Measured(*(jnp.where(rejected, most, jnp.minimum(x, most / 2)) for x in seen))


def largest_number(values: jax.Array) -> float:
    """The largest finite number of the dtype: what a rejected trial is told as its residual."""
    return float(jnp.finfo(values.dtype).max)


def report_truly(stats: Stats) -> Stats:
    """Undo what `measure_forgiving` told the loop."""
    most = largest_number(stats.residual)
    residual = jnp.where(stats.residual < most, stats.residual, jnp.inf)
    trace = stats.trace
    if trace is not None:
        trace = jnp.where(trace == most, jnp.inf, trace)
    diverged = stats.status == int(Status.DIVERGED)
    return stats._replace(
        # the NaN that gives a sample up is no step
        steps=jnp.maximum(stats.steps - diverged.astype(jnp.int32), 0),
        residual=residual,
        status=jnp.where(jnp.isinf(residual), int(Status.DIVERGED), stats.status),
        trace=trace,
    )
