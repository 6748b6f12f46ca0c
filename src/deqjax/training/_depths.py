"""How a finished run's scores depend on the depth at which its solves stop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deqjax._scores import scores
from deqjax.training._finished import Which, load_run
from deqjax.training._options import ConfigError
from deqjax.training._scoring import evaluate
from deqjax.training.step import SolveLimits


class DepthScore(NamedTuple):
    """What a model is worth at one depth.

    Attributes:
        depth: solver steps of every solve.
        loss: mean over all that is scored.
        residual: mean over samples of what the solver reports for the states it returns.
        others: what the task scores besides, but for single classes, such as "top1".
    """

    depth: int
    loss: float
    residual: float
    others: dict[str, float]


def sweep_depths(
    workdir: Path | str,
    depths: Sequence[int] = (1, 2, 4, 8, 16, 32),
    *,
    split: str = "validation",
    checkpoint: Which = "newest",
    task: Mapping[str, Any] | None = None,
) -> list[DepthScore]:
    """Score a run with each step limit and no tolerance, so that every solve uses its steps up.

    The limits are run-time values: all depths share one compiled program.

    Args:
        workdir: the run's folder.
        depths: step limits, at least 1 each, in the order of the result.
        split: "validation" or "test".
        checkpoint: which one; see [`deqjax.training.load_run`][].
        task: fields of the task with other values; likewise.

    Raises:
        WorkdirError, ConfigError, CheckpointError, DataError: there is no readable run, its model
            solves nothing, or a depth or a field makes no sense.
    """
    if not depths:
        raise ConfigError("--depths needs at least one step limit, as in --depths 1 2 4 8.")
    for depth in depths:
        if not isinstance(depth, int) or depth < 1:
            raise ConfigError(f"--depths must be whole numbers of at least 1, got {depth}.")
    run = load_run(workdir, checkpoint, task=task)
    weights = run.steps.place_weights(run.state.evaluated)
    result = []
    for depth in depths:
        found = evaluate(
            run,
            weights,
            split,
            batches=run.config.evaluation.final_batches,
            limits=SolveLimits(0.0, depth),
        )
        others = {name: found[name] for name in scores(found)}
        result.append(DepthScore(depth, found["loss"], found["forward_residual"], others))
    return result
