"""The published MDEQ-small on Cityscapes: semantic segmentation.

Command:   deqjax train experiments/vision/cityscapes_mdeq_small.py
Hardware:  published for four GPUs
Time:      480 epochs, days; not run by us
Expected:  Bai, Koltun & Kolter, NeurIPS 2020, section 4; not reproduced by us
Data:      Cityscapes, prepared by TFDS (the first run says how)

The published run starts from ImageNet weights; this one from scratch, or from a checkpoint that
deqjax convert makes a run. Batch, weight decay and dropout are our choice.
"""

from deqjax.data import Augmentation
from deqjax.models import MDEQShape, SolverSettings
from deqjax.training import (
    EvaluationConfig,
    ImageDataConfig,
    ImageModelConfig,
    OptimizerConfig,
    PenaltyConfig,
    VisionConfig,
)

EPOCH = 2_826 // 12  # steps


def config() -> VisionConfig:
    """Crops of 1024 x 512, scaled and flipped at random."""
    return VisionConfig(
        name="cityscapes_mdeq_small",
        steps=480 * EPOCH,
        log_every=20,
        checkpoint_every=EPOCH,
        model=ImageModelConfig(
            kind="mdeq",
            mdeq=MDEQShape(
                channels=(32, 64, 128, 256),
                classes=19,
                downsample_times=2,
                dropout=0.03,
                task="segmentation",
            ),
            solver=SolverSettings(
                method="broyden",
                max_steps=27,
                tol=1e-3,
                history=27,
                backward_method="broyden",
                backward_max_steps=30,
                backward_tol=1e-3,
                backward_history=30,
            ),
        ),
        data=ImageDataConfig(
            images="cityscapes", batch_size=12, augmentation=Augmentation("joint_scale_crop")
        ),
        optimizer=OptimizerConfig(
            kind="sgd",
            learning_rate=0.01,
            warmup_steps=0,
            final_fraction=0.0,
            weight_decay=5e-4,
            momentum=0.9,
            clip_norm=1e9,
        ),
        penalty=PenaltyConfig(weight=0.0),
        evaluation=EvaluationConfig(every=10 * EPOCH, batches=10, final_batches=600),
    )
