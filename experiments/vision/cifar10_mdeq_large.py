"""The published MDEQ-large on CIFAR-10, with augmentation, without the regularizer.

Command:   deqjax train experiments/vision/cifar10_mdeq_large.py
Hardware:  published for GPUs
Time:      220 epochs, days; not run by us
Expected:  93.8 % accuracy (Bai, Koltun & Kolter, NeurIPS 2020); not reproduced by us
Data:      as cifar10_mdeq_tiny.py
"""

import dataclasses
from pathlib import Path

from deqjax.data import Augmentation
from deqjax.models import MDEQShape
from deqjax.training import RunConfig, load_experiment

EPOCH = 45_000 // 128  # steps


def config() -> RunConfig:
    """Four branches; the number of steps is that of the regularized recipe."""
    tiny = load_experiment(Path(__file__).with_name("cifar10_mdeq_tiny.py"))
    shape = MDEQShape(
        channels=(32, 64, 128, 256),
        head_channels=(14, 28, 56, 112),
        final_channels=1680,
        classes=10,
        input_channels=3,
        dropout=0.3,
    )
    return dataclasses.replace(
        tiny,
        name="cifar10_mdeq_large",
        task=dataclasses.replace(
            tiny.task,
            network=dataclasses.replace(tiny.task.network, mdeq=shape),
            images=dataclasses.replace(tiny.task.images, augmentation=Augmentation("crop_flip")),
        ),
        steps=220 * EPOCH,
        pretrain_steps=20_000,
        checkpoint_every=EPOCH,
        evaluation=dataclasses.replace(tiny.evaluation, every=EPOCH),
    )
