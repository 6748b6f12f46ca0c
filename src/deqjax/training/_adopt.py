"""Making a run of a model that was trained elsewhere."""

import dataclasses
from pathlib import Path
from typing import Any

from flax import nnx

from deqjax.training._claim import Claim, Request, look
from deqjax.training._config import RunConfig, check
from deqjax.training._config_values import to_dict
from deqjax.training._run import build
from deqjax.training._stored_task import stored_task
from deqjax.training._workdir import Workdir
from deqjax.training.checkpoints import Checkpoints
from deqjax.training.step import Weights, split


def adopt_model(model: nnx.Module, config: RunConfig, workdir: Path | str) -> Workdir:
    """Make a folder a run whose first checkpoint, at step 0, holds the model's parameters.

    From there on it is a run like any other: evaluate it, use it, or train on. If the configuration
    is of another task, as when a segmentation starts from weights of a classification, it has
    everything of the model but the head, which is new.

    Args:
        model: the trained model.
        config: data, optimizer and schedule; its model becomes the one of ``model``.
        workdir: the folder; must not hold a run yet.

    Raises:
        ConfigError, WorkdirError, CheckpointError, DataError: the configuration cannot work, the
            folder is taken, or the data are missing.
    """
    config = dataclasses.replace(config, task=config.task.adopt(model))
    check(config)
    folder, request = Workdir.at(workdir), Request(config.name, to_dict(config))
    look(folder, request)
    run = build(config)
    weights = split(nnx.clone(model))[1]
    fitted = _fitted(weights, run.state.weights)
    average = None if run.state.average is None else fitted
    state = run.state._replace(weights=fitted, average=average)
    with Claim(folder, request) as claim:
        claim.begin(stored_task(config.task, run.task))
        with Checkpoints(folder.checkpoints, keep=config.keep_checkpoints) as checkpoints:
            meta = {"data": run.fingerprint, "window": [], "rollbacks": 0}
            checkpoints.save(0, state, run.batches, meta)
    return folder


def _fitted(own: Weights, fresh: Weights) -> Weights:
    """The model's own weights, but a fresh head where that is of another form."""
    head = "head"
    if [_forms(part, head) for part in own] == [_forms(part, head) for part in fresh]:
        return own

    def joined(own: nnx.State, fresh: nnx.State) -> nnx.State:
        kept = [(path, leaf) for path, leaf in nnx.to_flat_state(own) if path[0] != head]
        new = [(path, leaf) for path, leaf in nnx.to_flat_state(fresh) if path[0] == head]
        return nnx.from_flat_state(kept + new)

    statistics = own.statistics
    if statistics is not None and fresh.statistics is not None:
        statistics = joined(statistics, fresh.statistics)
    return Weights(joined(own.parameters, fresh.parameters), statistics)


def _forms(part: nnx.State | None, name: str) -> dict[Any, tuple[int, ...]]:
    """The shape of each array of one part of the model."""
    if part is None:
        return {}
    return {path: leaf.shape for path, leaf in nnx.to_flat_state(part) if path[0] == name}
