"""The published MDEQ-large on CIFAR-10 with Jacobian regularization and less than half the steps.

Command:   deqjax train experiments/vision/cifar10_mdeq_large_regularized.py
Hardware:  as cifar10_mdeq_large.py
Time:      as cifar10_mdeq_large.py, but for the shorter solves; not run by us
Expected:  Bai, Koltun & Kolter, ICML 2021, table 2; not reproduced by us
Data:      as cifar10_mdeq_tiny.py
"""

import dataclasses
from pathlib import Path

from deqjax.training import PenaltyConfig, RunConfig, StepLimitConfig, load_experiment

EPOCH = 45_000 // 96  # steps


def config() -> RunConfig:
    """Eight steps forward and seven back; no penalty after epoch 90."""
    large = load_experiment(Path(__file__).with_name("cifar10_mdeq_large.py"))
    network = large.task.network
    shape = dataclasses.replace(network.mdeq, dropout=0.22)
    solver = dataclasses.replace(
        network.solver, max_steps=8, history=8, backward_max_steps=7, backward_history=7
    )
    network = dataclasses.replace(network, mdeq=shape, solver=solver)
    return dataclasses.replace(
        large,
        name="cifar10_mdeq_large_regularized",
        task=dataclasses.replace(large.task, network=network),
        steps=220 * EPOCH,
        batch_size=96,
        pretrain_steps=16_000,
        pretrain_layers=8,
        step_limit=StepLimitConfig("uniform", least=6),
        checkpoint_every=EPOCH,
        evaluation=dataclasses.replace(large.evaluation, every=EPOCH),
        penalty=PenaltyConfig(weight=0.4, probability=0.02, last_step=90 * EPOCH),
    )
