"""A Jacobian-regularized DEQ-Transformer on Shakespeare, at the budget of nanoGPT's CPU example.

Command:   deqjax train experiments/language/tinyshakespeare.py --task.text.file tinyshakespeare.txt
Hardware:  two CPU cores, no GPU
Time:      about 15 minutes
Expected:  see experiments/results/tinyshakespeare.json
Data:      the 1.1 MB of Shakespeare that nanoGPT trains on (data/tinyshakespeare/input.txt in
           https://github.com/karpathy/char-rnn)
Variants:  --penalty.weight 0                 without the regularizer
           tinyshakespeare_explicit.py        the explicit baseline at equal parameters
           tinyshakespeare_reversible.py      exact gradients of a reversible iteration

Characters, segments of 64, batches of 12, 2000 steps, at most 0.8 million parameters.
"""

from deqjax.models import SolverSettings, TransformerShape
from deqjax.tasks.language import LanguageNetwork, LanguageTask, Text
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig


def config() -> RunConfig:
    """One wide layer, with the learning rate, decay and betas of nanoGPT's example."""
    return RunConfig(
        name="tinyshakespeare",
        task=LanguageTask(
            network=LanguageNetwork(
                shape=TransformerShape(vocabulary=65, length=64, width=216, heads=8, hidden=832),
                solver=SolverSettings(
                    max_steps=12, tol=1e-2, backward_max_steps=12, backward_tol=3e-2
                ),
            ),
            text=Text(corpus="text_characters", file="tinyshakespeare.txt"),
        ),
        steps=2000,
        batch_size=12,
        log_every=20,
        checkpoint_every=1000,
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            warmup_steps=100,
            final_fraction=0.1,
            weight_decay=0.1,
            beta2=0.99,
            clip_norm=1.0,
        ),
        penalty=PenaltyConfig(weight=0.05, probability=0.4),
        evaluation=EvaluationConfig(every=250, batches=16, final_batches=10_000),
    )
