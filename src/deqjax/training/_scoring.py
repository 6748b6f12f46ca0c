"""Evaluation: one pass over a split, its scores, solver statistics and spectral radii."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from deqjax.training._options import ConfigError
from deqjax.training._rehearsal import Layer
from deqjax.training._run import Run
from deqjax.training._task_errors import of_task
from deqjax.training.batches import BatchOrder, Pipeline
from deqjax.training.devices import first_replica
from deqjax.training.step import OWN_LIMITS, Batch, SolveLimits, Weights, is_largest


def evaluate(
    run: Run,
    weights: Weights,
    split: str,
    *,
    batches: int,
    limits: SolveLimits = OWN_LIMITS,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Score a model on a split.

    Args:
        run: its parts.
        weights: placed.
        split: "train", "validation" or "test".
        batches: batches to score at most.
        limits: tolerance and step limit of the solves.
        progress: is called before each batch.

    Returns:
        "loss" and its other units, scores of the task and of its baselines, "scored" (the sum of
        all weights), solver statistics as in training, the "tolerance" of the layers, and
        "spectral_radius" (mean) and "spectral_radius_max" over rows.

    Raises:
        DataError, ConfigError: the split has nothing to score, or limits are given for a model that
            solves nothing.
        ExperimentError: the task fails.
    """
    task, data = run.task, run.data.split(split)
    order = _order(run, data, batches)
    layers: tuple[Layer, ...] = ()
    found = _Pass()
    memory = None
    for index, batch in enumerate(data.evaluate(order)):
        progress()
        if not index:
            layers = run.layers(batch, train=False)
            _check_limits(layers, limits)
            memory = run.memory(len(batch.counted))
            memory = None if memory is None else run.steps.share(memory)
        if layers and index < run.config.evaluation.radius_batches:
            key = jax.random.fold_in(jax.random.key(run.config.seed), index)
            found.radii.append(run.steps.radius(weights, batch, memory, limits, key))
        metrics, counts, memory = run.steps.evaluate(weights, batch, memory, limits)
        found.metrics.append(first_replica(metrics))
        found.counts.append(first_replica(counts))
    scores = found.scores()
    result = scores.metrics | of_task(task, lambda: task.in_units(scores.loss))
    result |= of_task(task, lambda: task.scores(scores.counts, scores.weight))
    result["scored"] = scores.weight
    if layers and limits.tol is None and (tols := [x.tol for x in layers if x.tol is not None]):
        result["tolerance"] = max(tols)
    whole = order._replace(process_index=0, process_count=1)
    rows = (_counted(batch) for batch in data.evaluate(whole))
    return result | of_task(task, lambda: task.baselines(rows))


def try_evaluation(run: Run, split: str) -> None:
    """Follow an evaluation's first batch without computing: what is wrong is said before training.

    Raises:
        ConfigError, DataError, ExperimentError: as `evaluate`.
    """

    def first() -> Batch | None:
        data = run.data.split(split)
        return next(iter(data.evaluate(_order(run, data, 1))), None)

    batch = of_task(run.task, first)
    if batch is not None:
        run.layers(batch, train=False)


def _order(run: Run, data: Pipeline, batches: int) -> BatchOrder:
    devices = run.steps.shares * jax.process_count()
    rows = data.evaluation_rows(run.config.batch_size, devices)
    return run.order._replace(batch_size=rows, limit=batches, workers=0)


def _check_limits(layers: tuple[Layer, ...], limits: SolveLimits) -> None:
    if not layers and limits != OWN_LIMITS:
        raise ConfigError("an explicit model solves nothing; drop --max-steps, --tol and --depths.")


def _counted(batch: Batch) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[batch.counted], batch.rows)


class _Scores(NamedTuple):
    """What one pass found.

    Attributes:
        loss: mean over everything scored.
        weight: the sum of the weights.
        counts: sums over all batches and processes.
        metrics: the solver's statistics, means over all rows, and the spectral radius.
    """

    loss: float
    weight: float
    counts: dict[str, np.ndarray]
    metrics: dict[str, float]


class _Pass:
    """What the batches of a pass give, one after the other."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, Any]] = []
        self.counts: list[dict[str, Any]] = []
        self.radii: list[np.ndarray] = []

    def scores(self) -> _Scores:
        """Of all of them together.

        Raises:
            ConfigError: nothing counts.
        """
        if not self.metrics:
            raise ConfigError("there is nothing to score: this split has no batch.")
        rows = [float(each.pop("rows")) for each in self.metrics]
        statistics = {
            name: _over_batches(name, [float(each[name]) for each in self.metrics], rows)
            for name in self.metrics[0]
            if name.startswith("forward_")
        }
        if self.radii:
            statistics["spectral_radius"] = float(np.mean(np.concatenate(self.radii)))
            statistics["spectral_radius_max"] = float(np.max(np.concatenate(self.radii)))
        weights = np.array([each["scored"] for each in self.metrics], np.float64)
        losses = np.array([each["loss"] for each in self.metrics], np.float64)
        total = float(np.sum(weights))
        if not total:
            raise ConfigError("there is nothing to score in these batches: no target counts.")
        loss = float(np.sum(losses * weights)) / total
        return _Scores(loss, total, _summed(self.counts), statistics)


def _summed(counts: Iterable[dict[str, Any]]) -> dict[str, np.ndarray]:
    first, *rest = counts
    return {
        name: np.asarray(sum((each[name] for each in rest), start=_widest(values)))
        for name, values in first.items()
    }


def _widest(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int64 if np.issubdtype(values.dtype, np.integer) else np.float64)


def _over_batches(name: str, values: list[float], rows: list[float]) -> float:
    return max(values) if is_largest(name) else float(np.average(values, weights=rows))
