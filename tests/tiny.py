"""A run that trains in seconds: the smallest shapes that still exercise every part."""

import dataclasses

from deqjax.models import SolverSettings, TransformerShape
from deqjax.tasks.language import LanguageNetwork, LanguageTask, Text
from deqjax.training import EvaluationConfig, PenaltyConfig, RunConfig


def tiny_config(data_directory, **changes):
    config = RunConfig(
        name="tiny",
        task=LanguageTask(
            network=LanguageNetwork(
                depth=2,
                shape=TransformerShape(length=8, width=8, heads=2, hidden=16, dropout=0.1),
                solver=SolverSettings(max_steps=6, backward_max_steps=4, history=2),
            ),
            text=Text(directory=str(data_directory)),
        ),
        steps=4,
        batch_size=4,
        log_every=2,
        checkpoint_every=2,
        penalty=PenaltyConfig(weight=0.5, probability=0.5),
        evaluation=EvaluationConfig(every=2, batches=2, final_batches=2, radius_batches=1),
    )
    return dataclasses.replace(config, **changes)


def with_parts(settings, **changes):
    """A dataclass with fields of its parts replaced: task__network__kind="transformer_xl"."""
    for name, value in changes.items():
        first, _, rest = name.partition("__")
        part = with_parts(getattr(settings, first), **{rest: value}) if rest else value
        settings = dataclasses.replace(settings, **{first: part})
    return settings


_SIZES = {
    "log-every": 2,
    "checkpoint-every": 2,
    "task.network.shape.length": 8,
    "task.network.shape.width": 8,
    "task.network.shape.heads": 2,
    "task.network.shape.hidden": 16,
    "task.network.solver.max-steps": 6,
    "task.network.solver.backward-max-steps": 4,
    "task.network.solver.history": 2,
    "batch-size": 4,
    "evaluation.every": 1000,
    "evaluation.batches": 2,
    "evaluation.final-batches": 2,
    "evaluation.radius-batches": 1,
}
TINY_OPTIONS = [word for name, size in _SIZES.items() for word in (f"--{name}", str(size))]
