"""The published DEQ-Transformer on WikiText-103 with Jacobian regularization, post-LN.

Command:   deqjax train experiments/language/wikitext103_regularized.py
Hardware:  as wikitext103.py
Time:      300,000 steps, days; not run by us
Expected:  test perplexity about 23.8 (the authors' repository; Bai, Koltun & Kolter, ICML 2021);
           not reproduced by us
Data:      as wikitext103.py
"""

import dataclasses
from pathlib import Path

from deqjax.training import PenaltyConfig, RunConfig, StepLimitConfig, load_experiment


def config() -> RunConfig:
    """Less than half of the plain recipe's solver steps, and twice its memory."""
    plain = load_experiment(Path(__file__).with_name("wikitext103.py"))
    network = plain.task.network
    shape = dataclasses.replace(
        network.shape, memory_length=300, dropout=0.06, attention_dropout=0.01
    )
    solver = dataclasses.replace(
        network.solver, max_steps=12, backward_max_steps=13, backward_history=13
    )
    network = dataclasses.replace(network, shape=shape, solver=solver)
    return dataclasses.replace(
        plain,
        name="wikitext103_regularized",
        task=dataclasses.replace(plain.task, network=network),
        step_limit=StepLimitConfig("uniform", least=10),
        penalty=PenaltyConfig(weight=1.9, probability=0.35, increment=0.1, increment_every=35_000),
    )
