"""The published DEQ-Transformer on WikiText-103, without regularization.

Command:   deqjax train experiments/language/wikitext103.py
Hardware:  one GPU with 16 to 24 GiB, or several in one process, because of the segment memory;
           deqjax estimate with this file tells XLA's plan
Time:      300,000 steps, days; not run by us
Expected:  test perplexity about 23.1 (published model; Bai, Kolter & Koltun 2019 and the authors'
           repository); not reproduced by us
Data:      WikiText-103's archive in the manual directory; the error names its address
"""

from deqjax.models import SolverSettings, TransformerShape
from deqjax.tasks.language import LanguageNetwork, LanguageTask, Text
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig


def config() -> RunConfig:
    """Solves by Anderson, 30 steps; backward by Broyden, 35 steps."""
    return RunConfig(
        name="wikitext103",
        task=LanguageTask(
            network=LanguageNetwork(
                shape=TransformerShape(
                    vocabulary=267_735,
                    length=150,
                    memory_length=150,
                    width=700,
                    heads=10,
                    hidden=48_000,
                    cutoffs=(20_000, 40_000, 200_000),
                    divisor=4,
                    tie_projections=(False, True, True, True),
                    weight_norm=True,
                    residual_injection=False,
                    dropout=0.05,
                ),
                solver=SolverSettings(
                    max_steps=30,
                    tol=1e-3,
                    backward_method="broyden",
                    backward_max_steps=35,
                    backward_tol=1e-3,
                    history=6,
                    backward_history=35,
                ),
            ),
            text=Text(corpus="wikitext103"),
        ),
        steps=300_000,
        batch_size=56,
        order="given",
        pretrain_steps=32_000,
        pretrain_layers=2,
        log_every=200,
        checkpoint_every=5_000,
        optimizer=OptimizerConfig(
            learning_rate=2.5e-4,
            warmup_steps=16_000,
            final_fraction=0.0,
            weight_decay=0.0,
            clip_norm=0.25,
        ),
        penalty=PenaltyConfig(weight=0.0),
        evaluation=EvaluationConfig(every=5_000, batches=20, final_batches=10_000),
    )
