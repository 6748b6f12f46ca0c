"""An equilibrium reasoner on Sudoku of 4 x 4 cells.

Command:   deqjax train experiments/reasoning/sudoku4.py
Hardware:  two CPU cores, no GPU
Time:      about 15 minutes
Expected:  more whole boards right with more cycles than a pass of training has:
           deqjax evaluate runs/sudoku4 --depths 1 2 4 8 16 32
Data:      generated on first use; nothing is downloaded
Variants:  sudoku4_explicit.py   the explicit network of as many parameters
           sudoku6.py            6 x 6 cells
           --task.network.solver.adjoint implicit (and --task.network.solver.tol 1e-3) another
           gradient
"""

from deqjax.models import ReasonerShape
from deqjax.tasks.reasoning import Puzzles, ReasonerNetwork, ReasoningTask, Thinking
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig


def config() -> RunConfig:
    """Small enough to be watched."""
    return RunConfig(
        name="sudoku4",
        task=ReasoningTask(
            network=ReasonerNetwork(
                shape=ReasonerShape(
                    width=64,
                    heads=4,
                    layers=2,
                    multiple=64,
                    inner_steps=3,
                    noise=0.01,
                    positions="rotary_2d",
                )
            ),
            puzzles=Puzzles(name="sudoku4", difficulty="hard"),
            thinking=Thinking(passes=4),
        ),
        steps=4000,
        batch_size=64,
        average_decay=0.995,
        log_every=50,
        checkpoint_every=500,
        optimizer=OptimizerConfig(
            schedule="constant", learning_rate=1e-3, warmup_steps=100, weight_decay=0.1
        ),
        penalty=PenaltyConfig(weight=0.0),
        evaluation=EvaluationConfig(every=500, batches=8, final_batches=64, radius_batches=0),
    )
