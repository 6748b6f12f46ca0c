"""A Jacobian-regularized DEQ-Transformer on the bytes of Python's own standard library.

Command:   deqjax train experiments/stdlib_lm.py
Hardware:  two CPU cores, no GPU
Time:      see README
Expected:  see README
Data:      CPython's standard library sources; nothing is downloaded
Variants:  --penalty.weight 0                  without the regularizer
           --task.network.kind transformer_xl  a stack of untied layers
"""

from deqjax.models import SolverSettings, TransformerShape
from deqjax.tasks.language import LanguageNetwork, LanguageTask
from deqjax.training import PenaltyConfig, RunConfig


def config() -> RunConfig:
    """The default experiment."""
    return RunConfig(
        name="stdlib_lm",
        task=LanguageTask(
            network=LanguageNetwork(
                shape=TransformerShape(width=128, hidden=512, length=64),
                solver=SolverSettings(),
            )
        ),
        steps=400,
        penalty=PenaltyConfig(weight=0.6, probability=0.35),
    )
