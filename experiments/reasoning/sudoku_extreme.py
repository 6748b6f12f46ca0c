"""The published equilibrium reasoner on Sudoku-Extreme, 9 x 9 cells (arXiv 2605.21488).

Command:   deqjax train experiments/reasoning/sudoku_extreme.py \
               --task.puzzles.manual_directory FOLDER
Hardware:  one GPU of 80 GB, or more
Time:      not measured to the end; see deqjax estimate
Expected:  not trained to the end here
Data:      train.csv and test.csv of Sudoku-Extreme in FOLDER
Variants:  --task.puzzles.name sudoku9 --task.puzzles.difficulty hard   puzzles made here
           --task.network.shape.mixing mlp   a feed-forward over the positions in place of attention
           --task.network.shape.damping 1 --task.network.shape.noise 0   the tiny recursive model

Sizes, damping, noise, batch, learning rate, decay and average are the published ones; warm-up,
clipping and the number of steps are ours.
"""

from deqjax.models import ReasonerShape
from deqjax.tasks.reasoning import Puzzles, ReasonerNetwork, ReasoningTask
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig


def config() -> RunConfig:
    """Two layers of 512 features, three cycles of six updates a pass, 16 passes a puzzle."""
    return RunConfig(
        name="sudoku_extreme",
        task=ReasoningTask(
            network=ReasonerNetwork(
                shape=ReasonerShape(
                    tokens=11,
                    length=81,
                    board=(9, 9),
                    width=512,
                    heads=8,
                    layers=2,
                    inner_steps=6,
                    damping=0.95,
                    noise=0.01,
                    dtype="bfloat16",
                )
            ),
            puzzles=Puzzles(name="sudoku_extreme"),
        ),
        steps=60_000,
        batch_size=768,
        average_decay=0.999,
        log_every=50,
        checkpoint_every=1000,
        optimizer=OptimizerConfig(
            schedule="constant", learning_rate=1e-4, warmup_steps=2000, weight_decay=1.0
        ),
        penalty=PenaltyConfig(weight=0.0),
        evaluation=EvaluationConfig(every=5000, batches=4, final_batches=64, radius_batches=0),
    )
