"""The published MDEQ-small on Cityscapes: semantic segmentation.

Command:   deqjax train experiments/vision/cityscapes_mdeq_small.py
Hardware:  published for four GPUs
Time:      500 epochs, days; not run by us
Expected:  Bai, Koltun & Kolter, NeurIPS 2020, section 4; not reproduced by us
Data:      Cityscapes, prepared by TFDS (the first run says how)

The published run starts from ImageNet weights: `deqjax convert CHECKPOINT --config JSON --out RUN
--recipe FILE` with this file makes them a run with a new head, which `deqjax train FILE --workdir
RUN --resume` goes on with. `deqjax train` alone starts from scratch.
"""

from deqjax.data import Augmentation
from deqjax.models import MDEQShape, SolverSettings
from deqjax.tasks.vision import ImageNetwork, Images, VisionTask
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig

EPOCH = 2_826 // 12  # steps


def config() -> RunConfig:
    """Crops of 1024 x 512, scaled and flipped at random."""
    return RunConfig(
        name="cityscapes_mdeq_small",
        task=VisionTask(
            network=ImageNetwork(
                kind="mdeq",
                mdeq=MDEQShape(
                    channels=(32, 64, 128, 256),
                    classes=19,
                    input_channels=3,
                    downsample_times=2,
                    dropout=0.05,
                    task="segmentation",
                ),
                solver=SolverSettings(
                    method="broyden",
                    max_steps=27,
                    tol=1e-3,
                    stop="absolute",
                    history=27,
                    backward_method="broyden",
                    backward_max_steps=30,
                    backward_tol=1e-3,
                    backward_history=30,
                ),
            ),
            images=Images(name="cityscapes", augmentation=Augmentation("joint_scale_crop")),
        ),
        steps=500 * EPOCH,
        batch_size=12,
        threads=16,
        pretrain_steps=60_000,
        pretrain_layers=3,
        log_every=20,
        checkpoint_every=EPOCH,
        optimizer=OptimizerConfig(
            kind="sgd",
            learning_rate=0.01,
            warmup_steps=0,
            final_fraction=0.0,
            weight_decay=2e-4,
            momentum=0.9,
            nesterov=False,
            clip_norm=1e9,
        ),
        penalty=PenaltyConfig(weight=0.0),
        evaluation=EvaluationConfig(every=10 * EPOCH, batches=10, final_batches=600),
    )
