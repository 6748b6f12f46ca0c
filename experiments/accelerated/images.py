"""Images a second of the published MDEQ-tiny on CIFAR-10, against a ResNet of its accuracy.

The explicit model is about the ResNet-20 of He et al., CVPR 2016, section 4.2: three stages of
three blocks, 16, 32 and 64 channels, which come to about 85 % without augmentation as well. Images
are random.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accelerated import throughput
from accelerated.part import Options, Tell
from accelerated.throughput import Contest
from deqjax.models import ResidualShape
from deqjax.training import RunConfig, load_experiment

RECIPE = Path(__file__).parents[1] / "vision" / "cifar10_mdeq_tiny.py"
CHANNELS, BLOCKS = (16, 32, 64), 3


class RandomImages(NamedTuple):
    """Rows of random images, as an image task's loss takes them.

    Attributes:
        images: (rows, side, side, 3) float32.
        labels: (rows,) int32.
    """

    images: Any
    labels: Any


def measure(options: Options, tell: Tell) -> None:
    """Both."""
    throughput.measure(contests(options.tiny), options, tell)


def contests(tiny: bool) -> Mapping[str, Contest]:
    """The two models at the recipe's batch."""
    mdeq = load_experiment(RECIPE)
    if tiny:
        mdeq = _smallest(mdeq)
    side = 8 if tiny else 32
    models = {"MDEQ-tiny": mdeq, "ResNet": explicit(mdeq, tiny)}
    return {
        name: Contest(config, partial(_rows, side), "images", 1) for name, config in models.items()
    }


def explicit(mdeq: RunConfig, tiny: bool) -> RunConfig:
    """The ResNet, with the recipe's optimizer and batch."""
    shape = ResidualShape(
        channels=(4,) if tiny else CHANNELS, groups=1, classes=10, input_channels=3
    )
    network = dataclasses.replace(
        mdeq.task.network, kind="resnet", residual=shape, depth=1 if tiny else BLOCKS
    )
    return dataclasses.replace(mdeq, task=dataclasses.replace(mdeq.task, network=network))


def _rows(side: int, rows: int) -> RandomImages:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(rows, side, side, 3)).astype(np.float32)
    return RandomImages(images, draw.integers(0, 10, rows, dtype=np.int32))


def _smallest(config: RunConfig) -> RunConfig:
    network = config.task.network
    sizes = {
        "channels": (4,),
        "head_channels": (2,),
        "groups": 2,
        "expansion": 1,
        "final_channels": 4,
    }
    network = dataclasses.replace(
        network,
        mdeq=dataclasses.replace(network.mdeq, **sizes),
        solver=dataclasses.replace(
            network.solver, max_steps=3, backward_max_steps=3, history=3, backward_history=3
        ),
    )
    task = dataclasses.replace(config.task, network=network)
    return dataclasses.replace(config, task=task, batch_size=4)
