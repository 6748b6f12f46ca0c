"""A Jacobian-regularized ResDEQ on scikit-learn's handwritten digits (8 x 8 pixels, 1797 images).

Command:   deqjax train experiments/vision/digits.py
Hardware:  two CPU cores, no GPU
Time:      a minute
Expected:  98 % or more of the test images right: deqjax evaluate runs/digits --split test
Data:      come with scikit-learn; nothing is downloaded
Variants:  --penalty.weight 0          without the regularizer
           --task.network.kind resnet  the explicit baseline
"""

from deqjax.data import Augmentation
from deqjax.models import ResidualShape, SolverSettings
from deqjax.tasks.vision import ImageNetwork, Images, VisionTask
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig


def config() -> RunConfig:
    """Small enough for a coffee break's first sip."""
    return RunConfig(
        name="digits",
        task=VisionTask(
            network=ImageNetwork(
                kind="resdeq",
                residual=ResidualShape(channels=(32,)),
                depth=1,
                solver=SolverSettings(
                    max_steps=16, tol=1e-2, backward_max_steps=16, backward_tol=1e-2
                ),
            ),
            images=Images(name="digits", augmentation=Augmentation("none")),
        ),
        steps=500,
        batch_size=64,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=40),
        penalty=PenaltyConfig(weight=4.0, probability=0.35),
        evaluation=EvaluationConfig(every=100, batches=5, final_batches=5, radius_batches=5),
    )
