"""An equilibrium reasoner on Sudoku of 4 x 4 cells.

Command:   deqjax train experiments/reasoning/sudoku4.py
Hardware:  two CPU cores, no GPU
Time:      about 10 minutes
Expected:  97 % of the validation boards right after the three cycles of a training pass, 99.9 %
           after eight; from four starts the answer with the smallest residual is always right:
           deqjax evaluate runs/sudoku4 --depths 1 2 3 4 6 8 16 32 --starts 4
Data:      generated on first use; nothing is downloaded
Variants:  sudoku4_explicit.py   the explicit network of as many parameters
           sudoku6.py            6 x 6 cells
           --task.network.solver.adjoint unrolled   a gradient through all cycles of a pass
           compare_gradients.py  every rule for the gradient, at equal time and evaluations

Boards have so few clues that none of them could be left out (4 to 6).
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
        steps=2000,
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
