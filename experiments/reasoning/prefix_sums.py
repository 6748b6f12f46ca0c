"""A network that learns to iterate: parities of 32 bits in training, of more in use.

Command:   deqjax train experiments/reasoning/prefix_sums.py
Hardware:  two CPU cores, no GPU
Time:      about 5 minutes
Expected:  see experiments/results/prefix_sums.json; strings of 512 bits take some 300 steps:
           deqjax evaluate runs/prefix_sums --size 512 --count 200 --max-steps 1024
Data:      generated on first use; nothing is downloaded
Variants:  --penalty.increment 0.1 --penalty.increment-every 500 --penalty.probability 1
                                     a Jacobian penalty that grows: bits are not carried far then
           compare_prefix_sums.py    that, the same layer at a fixed depth, and an explicit network

Anil et al., NeurIPS 2022, arXiv 2211.09961: a fixed point that does not depend on where its solve
starts can be solved for longer where a problem needs it. What makes it so is that a training solve
starts at zero, at random or where an earlier one ended, and takes 8 to 64 steps, as it is drawn.
"""

import dataclasses

from deqjax.models import RecallShape, recall_settings
from deqjax.tasks.reasoning import Puzzles, RecallNetwork, RecallTask
from deqjax.training import (
    EvaluationConfig,
    OptimizerConfig,
    PenaltyConfig,
    RunConfig,
    StepLimitConfig,
)


def config() -> RunConfig:
    """One block of 32 features; 8 to 64 steps without gradient, and 8 with."""
    network = RecallNetwork(
        shape=RecallShape(width=32, blocks=1, causal=True),
        solver=dataclasses.replace(recall_settings(), max_steps=64),
    )
    return RunConfig(
        name="prefix_sums",
        task=RecallTask(
            network=network, puzzles=Puzzles(name="prefix_sums", size=32, count=100_000)
        ),
        steps=4000,
        batch_size=64,
        average_decay=0.995,
        log_every=50,
        checkpoint_every=500,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, weight_decay=1e-4),
        penalty=PenaltyConfig(weight=0.0),
        step_limit=StepLimitConfig(distribution="uniform", least=8),
        evaluation=EvaluationConfig(every=250, batches=4, final_batches=16, radius_batches=1),
    )
