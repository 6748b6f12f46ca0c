"""A Jacobian-regularized ResDEQ on scikit-learn's handwritten digits (8 x 8 pixels, 1797 images).

Command:   deqjax train experiments/vision/digits.py
Hardware:  two CPU cores, no GPU
Time:      a minute
Expected:  98 % or more of the test images right: deqjax evaluate runs/digits --split test
Data:      come with scikit-learn; nothing is downloaded
Variants:  --penalty.weight 0   without the regularizer
           --model.kind resnet  the explicit baseline
"""

from deqjax.data import Augmentation
from deqjax.models import ResidualShape, SolverSettings
from deqjax.training import (
    EvaluationConfig,
    ImageDataConfig,
    ImageModelConfig,
    OptimizerConfig,
    PenaltyConfig,
    VisionConfig,
)


def config() -> VisionConfig:
    """Small enough for a coffee break's first sip."""
    return VisionConfig(
        name="digits",
        steps=500,
        model=ImageModelConfig(
            kind="resdeq",
            residual=ResidualShape(channels=(32,), classes=10, input_channels=1),
            depth=1,
            solver=SolverSettings(max_steps=16, tol=1e-2, backward_max_steps=16, backward_tol=1e-2),
        ),
        data=ImageDataConfig(images="digits", batch_size=64, augmentation=Augmentation("none")),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=40),
        penalty=PenaltyConfig(weight=4.0, probability=0.35),
        evaluation=EvaluationConfig(every=100, batches=5, final_batches=5, radius_batches=5),
    )
