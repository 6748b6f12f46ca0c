"""The published MDEQ-tiny on CIFAR-10, without augmentation.

Command:   deqjax train experiments/vision/cifar10_mdeq_tiny.py
Hardware:  published for one GPU; two CPU cores can take its steps, not its epochs
Time:      50 epochs; not run by us
Expected:  about 85 % accuracy (Bai, Koltun & Kolter, NeurIPS 2020); not reproduced by us
Data:      CIFAR-10, prepared by TFDS (the first run says how)
"""

from deqjax.data import Augmentation
from deqjax.models import MDEQShape, SolverSettings
from deqjax.tasks.vision import ImageNetwork, Images, VisionTask
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig

EPOCH = 45_000 // 128  # steps; 5,000 of the 50,000 training images are held out for validation


def config() -> RunConfig:
    """The plain recipe; the others change parts of it."""
    return RunConfig(
        name="cifar10_mdeq_tiny",
        task=VisionTask(
            network=ImageNetwork(
                kind="mdeq",
                mdeq=MDEQShape(
                    channels=(24, 24),
                    head_channels=(8, 16),
                    final_channels=200,
                    classes=10,
                    input_channels=3,
                    dropout=0.25,
                ),
                solver=SolverSettings(
                    method="broyden",
                    max_steps=18,
                    tol=1e-3,
                    history=18,
                    backward_method="broyden",
                    backward_max_steps=20,
                    backward_tol=1e-3,
                    backward_history=20,
                ),
            ),
            images=Images(name="cifar10", augmentation=Augmentation("none")),
        ),
        steps=50 * EPOCH,
        batch_size=128,
        pretrain_steps=3_000,
        pretrain_layers=10,
        log_every=50,
        checkpoint_every=EPOCH,
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            warmup_steps=0,
            final_fraction=0.0,
            weight_decay=2.5e-6,
            clip_norm=1e9,
        ),
        penalty=PenaltyConfig(weight=0.0),
        evaluation=EvaluationConfig(every=EPOCH, batches=40, final_batches=1_000, radius_batches=1),
    )
