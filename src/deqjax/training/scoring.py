"""One pass over evaluation batches: losses, counts, solver statistics, spectral radii."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from deqjax.models import SegmentMemory
from deqjax.training import parallel
from deqjax.training.config import RunConfig
from deqjax.training.parallel import DataParallel
from deqjax.training.state import Weights
from deqjax.training.step import SolveLimits


class Scores(NamedTuple):
    """What one pass found.

    Attributes:
        loss: mean over everything scored.
        counts: sums over all batches and devices, "scored" among them.
        metrics: the solver's statistics, means over all rows, and the spectral radius.
    """

    loss: float
    counts: dict[str, np.ndarray]
    metrics: dict[str, float]


def score(
    config: RunConfig,
    steps: DataParallel,
    weights: Weights,
    batches: Iterable[Any],
    *,
    memory: SegmentMemory | None = None,
    limits: SolveLimits | None = None,
) -> Scores:
    """Score a model on batches.

    Args:
        config: of the run.
        steps: mapped steps.
        weights: replicated.
        batches: on the host.
        memory: of the first batch's rows, shared out, or None.
        limits: tolerance and step limit of the solves; None is the configuration's.
    """
    if limits is None:
        limits = SolveLimits(config.solver.tol, config.solver.max_steps)
    key = jax.random.key(config.seed)
    found, radii = [], []
    for index, batch in enumerate(batches):
        if config.solves and index < config.evaluation.radius_batches:
            own_key = jax.random.fold_in(key, index)
            radii.append(steps.radius(weights, batch, memory, limits, own_key))
        metrics, memory = steps.evaluate(weights, batch, memory, limits)
        found.append(parallel.first_replica(metrics))
    rows = [metrics.pop("rows") for metrics in found]
    statistics = {
        name: float(np.average([metrics[name] for metrics in found], weights=rows))
        for name in found[0]
        if name.startswith("forward_")
    }
    if radii:
        statistics["spectral_radius"] = float(np.mean(np.concatenate(radii)))
        statistics["spectral_radius_max"] = float(np.max(np.concatenate(radii)))
    counts = {
        # a replica's own share was averaged over them
        name: steps.devices * np.sum([np.asarray(each[name], np.float64) for each in found], axis=0)
        for name in found[0]
        if name not in statistics and name != "loss"
    }
    losses = np.array([metrics["loss"] * metrics["scored"] for metrics in found], np.float64)
    loss = steps.devices * float(np.sum(losses)) / float(counts["scored"])
    return Scores(loss, counts, statistics)
