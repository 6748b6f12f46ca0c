"""The published MDEQ-small on ImageNet with Jacobian regularization.

Command:   deqjax train experiments/vision/imagenet_mdeq_small_regularized.py
Hardware:  published for four GPUs
Time:      100 epochs, weeks; not run by us
Expected:  Bai, Koltun & Kolter, ICML 2021, table 2; not reproduced by us
Data:      ImageNet (ILSVRC 2012), prepared by TFDS (the first run says how)
"""

from deqjax.data import Augmentation
from deqjax.models import MDEQShape, SolverSettings
from deqjax.tasks.vision import ImageNetwork, Images, VisionTask
from deqjax.training import (
    EvaluationConfig,
    OptimizerConfig,
    PenaltyConfig,
    RunConfig,
    StepLimitConfig,
)

EPOCH = 1_268_355 // 128  # steps


def config() -> RunConfig:
    """Half of the run is warm-up: the cell applied some times, with a weak penalty."""
    return RunConfig(
        name="imagenet_mdeq_small_regularized",
        task=VisionTask(
            network=ImageNetwork(
                kind="mdeq",
                mdeq=MDEQShape(
                    channels=(32, 64, 128, 256),
                    head_channels=(28, 56, 112, 224),
                    final_channels=2048,
                    classes=1000,
                    input_channels=3,
                    downsample_times=2,
                    dropout=0.02,
                ),
                solver=SolverSettings(
                    method="broyden",
                    max_steps=14,
                    tol=1e-3,
                    stop="absolute",
                    history=14,
                    backward_method="broyden",
                    backward_max_steps=14,
                    backward_tol=1e-3,
                    backward_history=14,
                ),
            ),
            images=Images(name="imagenet2012", augmentation=Augmentation("resized_crop")),
        ),
        steps=100 * EPOCH,
        batch_size=128,
        threads=16,
        pretrain_steps=510_000,
        pretrain_layers=5,
        step_limit=StepLimitConfig("uniform", least=12),
        log_every=100,
        checkpoint_every=EPOCH,
        optimizer=OptimizerConfig(
            kind="sgd",
            learning_rate=0.04,
            warmup_steps=0,
            final_fraction=0.0,
            weight_decay=2e-5,
            momentum=0.9,
            clip_norm=1e9,
        ),
        penalty=PenaltyConfig(
            weight=2.5,
            probability=0.08,
            increment=0.1,
            increment_every=50_000,
            pretrain_weight=0.03,
        ),
        evaluation=EvaluationConfig(every=EPOCH, batches=40, final_batches=1_000, radius_batches=1),
    )
