"""A Jacobian-regularized DEQ-Transformer on the bytes of Python's own standard library.

Command:   deqjax train experiments/stdlib_lm.py
Hardware:  two CPU cores, no GPU
Time:      see README
Expected:  see README
Data:      CPython's standard library sources; nothing is downloaded
Variants:  --penalty.weight 0         without the regularizer
           --model.kind transformer_xl  a stack of untied layers
"""

from deqjax.models import SolverSettings, TransformerShape
from deqjax.training import ModelConfig, PenaltyConfig, TrainConfig


def config() -> TrainConfig:
    """The default experiment."""
    return TrainConfig(
        name="stdlib_lm",
        steps=400,
        model=ModelConfig(
            shape=TransformerShape(width=128, hidden=512, length=64),
            solver=SolverSettings(),
        ),
        penalty=PenaltyConfig(weight=0.6, probability=0.35),
    )
