"""Making a run of a model that was trained elsewhere."""

from pathlib import Path

from flax import nnx

from deqjax.training.checkpoint import Checkpoints
from deqjax.training.config import RunConfig, check
from deqjax.training.loop import build
from deqjax.training.state import split
from deqjax.training.stored_config import to_dict
from deqjax.training.workdir import Workdir, prepare_workdir


def adopt_model(model: nnx.Module, config: RunConfig, workdir: Path | str) -> Workdir:
    """Make a folder a run whose first checkpoint, at step 0, holds the model's parameters.

    From there on it is a run like any other: evaluate it, use it, or train on.

    Args:
        model: the trained model.
        config: data, optimizer and schedule; its model becomes the one of ``model``.
        workdir: the folder; must not hold a run yet.

    Raises:
        ConfigError, WorkdirError, CheckpointError, DataError: the configuration cannot work, the
            folder is taken, or the data are missing.
    """
    config = config.of_model(model)
    check(config)
    run = build(config)
    folder = prepare_workdir(workdir, experiment=config.name, config=to_dict(config), resume=False)
    state = run.state._replace(weights=split(nnx.clone(model))[1])
    with Checkpoints(folder.checkpoints, keep=config.keep_checkpoints) as checkpoints:
        checkpoints.save(0, state, run.task.batches.iterator, {"data": run.task.fingerprint})
    return folder
