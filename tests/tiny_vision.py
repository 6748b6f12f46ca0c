"""Image models that train in seconds, on scikit-learn's digits."""

import dataclasses

from deqjax.models import MDEQShape, ResidualShape, SolverSettings
from deqjax.tasks.vision import ImageNetwork, VisionTask
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig


def tiny_vision(kind="resdeq", **changes):
    config = RunConfig(
        name="tiny_vision",
        task=VisionTask(
            network=ImageNetwork(
                kind=kind,
                mdeq=MDEQShape(
                    channels=(4, 4), groups=2, expansion=1, head_channels=(2, 2), final_channels=4
                ),
                residual=ResidualShape(channels=(4,), groups=2),
                depth=1,
                solver=SolverSettings(max_steps=4, backward_max_steps=3, history=2),
            )
        ),
        steps=4,
        batch_size=8,
        log_every=2,
        checkpoint_every=2,
        optimizer=OptimizerConfig(warmup_steps=0),
        penalty=PenaltyConfig(weight=0.5, probability=0.5),
        evaluation=EvaluationConfig(every=2, batches=2, final_batches=3, radius_batches=1),
    )
    return dataclasses.replace(config, **changes)
