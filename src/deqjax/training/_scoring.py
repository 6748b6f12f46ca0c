"""One pass over evaluation batches: losses, counts, solver statistics, spectral radii."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from deqjax.models import SegmentMemory
from deqjax.training._config import ConfigError, RunConfig
from deqjax.training.devices import DataParallel, first_replica
from deqjax.training.step import SolveLimits, Weights, is_largest


class Scores(NamedTuple):
    """What one pass found.

    Attributes:
        loss: mean over everything scored.
        scored: the number of targets.
        counts: sums over all batches and processes.
        metrics: the solver's statistics, means over all rows, and the spectral radius.
    """

    loss: float
    scored: float
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
    progress: Callable[[], None] = lambda: None,
) -> Scores:
    """Score a model on batches.

    Args:
        config: of the run.
        steps: mapped steps.
        weights: replicated.
        batches: on the host.
        memory: of the first batch's rows, shared out, or None.
        limits: tolerance and step limit of the solves; None is the configuration's.
        progress: is called before each batch.

    Raises:
        ConfigError: nothing counts.
    """
    if limits is None:
        limits = SolveLimits(config.solver.tol, config.solver.max_steps)
    key = jax.random.key(config.seed)
    found, counted, radii = [], [], []
    for index, batch in enumerate(batches):
        progress()
        if config.solves and index < config.evaluation.radius_batches:
            own_key = jax.random.fold_in(key, index)
            radii.append(steps.radius(weights, batch, memory, limits, own_key))
        metrics, counts, memory = steps.evaluate(weights, batch, memory, limits)
        found.append(first_replica(metrics))
        counted.append(first_replica(counts))
    rows = [float(metrics.pop("rows")) for metrics in found]
    statistics = {
        name: _over_batches(name, [float(metrics[name]) for metrics in found], rows)
        for name in found[0]
        if name.startswith("forward_")
    }
    if radii:
        statistics["spectral_radius"] = float(np.mean(np.concatenate(radii)))
        statistics["spectral_radius_max"] = float(np.max(np.concatenate(radii)))
    sums = {
        name: np.asarray(np.sum([each[name] for each in counted], axis=0, dtype=np.int64))
        for name in counted[0]
    }
    scored = np.array([metrics["scored"] for metrics in found], np.float64)
    losses = np.array([metrics["loss"] for metrics in found], np.float64)
    total = float(np.sum(scored))
    if not total:
        raise ConfigError("there is nothing to score in these batches: no target counts.")
    loss = float(np.sum(losses * scored)) / total
    return Scores(loss, total, sums, statistics)


def _over_batches(name: str, values: list[float], rows: list[float]) -> float:
    return max(values) if is_largest(name) else float(np.average(values, weights=rows))
