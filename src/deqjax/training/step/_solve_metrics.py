"""What the solves of a step report, as scalars."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from deqjax import Status
from deqjax.adjoints import BackwardStats
from deqjax.training.step._forward import Forward
from deqjax.training.step._problem import Metrics, masked_mean


def forward_metrics(found: Forward) -> Metrics:
    """Means over solves and the samples that count; of the steps the largest, too."""
    if not found.solves:
        return {}
    stats = [each.solution.stats for each in found.solves]
    counted = jnp.concatenate([counted_samples(found.counted, len(x.status)) for x in stats])
    steps, residual = (
        jnp.concatenate([getattr(each, name) for each in stats]).astype(jnp.float32)
        for name in ("steps", "residual")
    )
    return {
        "forward_steps": masked_mean(steps, counted),
        "forward_steps_max": jnp.max(jnp.where(counted, steps, 0)),
        "forward_residual": masked_mean(residual, counted),
        **_shares("forward", jnp.concatenate([each.status for each in stats]), counted),
    }


def backward_metrics(reports: Sequence[BackwardStats]) -> Metrics:
    """Of the layers whose backward solves ran; NaN where none did, and the records drop it."""
    if not reports:
        return {}
    steps, residual, status = (jnp.concatenate(leaves) for leaves in zip(*reports, strict=True))
    # a layer without a backward solve, such as a Jacobian-free one, has none that could converge
    ran = jnp.concatenate(
        [jnp.full(x.status.shape, jnp.any(x.status != Status.NOT_RUN)) for x in reports]
    )
    metrics = {
        "backward_steps": masked_mean(steps, ran),
        "backward_steps_max": jnp.max(jnp.where(ran, steps, 0)),
        "backward_residual": masked_mean(residual, ran),
        **_shares("backward", status, ran),
    }
    return {name: jnp.where(jnp.any(ran), each, math.nan) for name, each in metrics.items()}


def counted_samples(counted: jax.Array, samples: int) -> jax.Array:
    """Which samples of a solve count: as the rows do where each row is one, else all."""
    return counted if len(counted) == samples else jnp.ones(samples, bool)


def is_largest(name: str) -> bool:
    """Whether a metric is a maximum, which is not averaged but maximized."""
    return name.endswith("_max")


def _shares(direction: str, status: jax.Array, counted: jax.Array) -> Metrics:
    """Shares of samples that converged and that diverged."""
    return {
        f"{direction}_{word}": masked_mean((status == code).astype(jnp.float32), counted)
        for word, code in (("converged", Status.CONVERGED), ("diverged", Status.DIVERGED))
    }
