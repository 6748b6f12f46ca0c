"""A network that learns to iterate: parities of 32 bits in training, of more in use.

Command:   deqjax train experiments/reasoning/prefix_sums.py
Hardware:  two CPU cores, no GPU
Time:      about 3 minutes
Expected:  all strings of 32 bits right. Of 512 bits with --seed 1 all after 512 steps, with seeds 0
           and 2 none, where the solve settles on wrong parities beyond some 64 bits: what carries a
           bit any distance is not found from every start
           deqjax evaluate runs/prefix_sums --size 512 --count 20 --max-steps 1024
Data:      generated on first use; nothing is downloaded
Variants:  --penalty.weight 0        without the Jacobian penalty
           compare_prefix_sums.py    that, the same layer at a fixed depth, and an explicit network

Anil et al., NeurIPS 2022, arXiv 2211.09961: a fixed point that does not depend on where its solve
starts can be solved for longer where a problem needs it.
"""

from deqjax.models import RecallShape
from deqjax.tasks.reasoning import Puzzles, RecallNetwork, RecallTask
from deqjax.training import (
    EvaluationConfig,
    OptimizerConfig,
    PenaltyConfig,
    RunConfig,
    StepLimitConfig,
)


def config() -> RunConfig:
    """One block of 32 features; 8 to 32 steps without gradient, and 8 with."""
    return RunConfig(
        name="prefix_sums",
        task=RecallTask(
            network=RecallNetwork(shape=RecallShape(width=32, blocks=1)),
            puzzles=Puzzles(name="prefix_sums", size=32, count=100_000),
        ),
        steps=3000,
        batch_size=64,
        log_every=50,
        checkpoint_every=500,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, weight_decay=1e-4),
        # from the start it keeps some seeds from learning to carry a bit along
        penalty=PenaltyConfig(weight=0.0, increment=0.1, increment_every=500, probability=1.0),
        step_limit=StepLimitConfig(distribution="uniform", least=8),
        evaluation=EvaluationConfig(every=250, batches=4, final_batches=16, radius_batches=1),
    )
