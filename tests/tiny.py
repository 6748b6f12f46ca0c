"""A run that trains in seconds: the smallest shapes that still exercise every part."""

import dataclasses

from deqjax.models import SolverSettings, TransformerShape
from deqjax.training import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    PenaltyConfig,
    TrainConfig,
)


def tiny_config(data_directory, **changes):
    config = TrainConfig(
        name="tiny",
        steps=4,
        log_every=2,
        checkpoint_every=2,
        model=ModelConfig(
            depth=2,
            shape=TransformerShape(length=8, width=8, heads=2, hidden=16, dropout=0.1),
            solver=SolverSettings(max_steps=6, backward_max_steps=4, history=2),
        ),
        data=DataConfig(batch_size=4, directory=str(data_directory)),
        penalty=PenaltyConfig(weight=0.5, probability=0.5),
        evaluation=EvaluationConfig(every=2, batches=2, final_batches=2, radius_batches=1),
    )
    return dataclasses.replace(config, **changes)


_SIZES = {
    "log-every": 2,
    "checkpoint-every": 2,
    "model.shape.length": 8,
    "model.shape.width": 8,
    "model.shape.heads": 2,
    "model.shape.hidden": 16,
    "model.solver.max-steps": 6,
    "model.solver.backward-max-steps": 4,
    "model.solver.history": 2,
    "data.batch-size": 4,
    "evaluation.every": 1000,
    "evaluation.batches": 2,
    "evaluation.final-batches": 2,
    "evaluation.radius-batches": 1,
}
TINY_OPTIONS = [word for name, size in _SIZES.items() for word in (f"--{name}", str(size))]
