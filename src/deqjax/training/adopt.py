"""Making a run of a model that was trained elsewhere."""

import dataclasses
from pathlib import Path

from flax import nnx

from deqjax.models import DEQTransformerLM, TransformerXL
from deqjax.training.checkpoint import Checkpoints
from deqjax.training.config import TrainConfig, check, to_dict
from deqjax.training.loop import build
from deqjax.training.state import split
from deqjax.training.workdir import Workdir, prepare_workdir


def adopt_model(
    model: DEQTransformerLM | TransformerXL, config: TrainConfig, workdir: Path | str
) -> Workdir:
    """Make a folder a run whose first checkpoint, at step 0, holds the model's parameters.

    From there on it is a run like any other: evaluate it, generate from it, or train on.

    Args:
        model: the trained model.
        config: data, optimizer and schedule; its model's shape becomes that of ``model``.
        workdir: the folder; must not hold a run yet.

    Raises:
        ConfigError, WorkdirError, CheckpointError, DataError: the configuration cannot work, the
            folder is taken, or the data are missing.
    """
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, shape=model.shape))
    check(config)
    run = build(config)
    folder = prepare_workdir(workdir, experiment=config.name, config=to_dict(config), resume=False)
    parameters = split(nnx.clone(model))[1]
    state = run.state._replace(parameters=parameters)
    with Checkpoints(folder.checkpoints, keep=config.keep_checkpoints) as checkpoints:
        checkpoints.save(0, state, run.batches.iterator, {"data": run.fingerprint})
    return folder
