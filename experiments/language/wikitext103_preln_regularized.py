"""The published DEQ-Transformer on WikiText-103 with Jacobian regularization, pre-LN.

Command:   deqjax train experiments/language/wikitext103_preln_regularized.py
Hardware:  as wikitext103.py
Time:      300,000 steps, days; not run by us
Expected:  a stable run: without the penalty the pre-LN form diverges (Bai, Koltun & Kolter, ICML
           2021); not reproduced by us
Data:      as wikitext103.py
"""

import dataclasses
from pathlib import Path

from deqjax.training import PenaltyConfig, RunConfig, load_experiment


def config() -> RunConfig:
    """Layer norm before attention; 14 steps each way and a stronger penalty."""
    post = load_experiment(Path(__file__).with_name("wikitext103_regularized.py"))
    network = post.task.network
    shape = dataclasses.replace(network.shape, pre_layer_norm=True)
    solver = dataclasses.replace(network.solver, max_steps=14, backward_max_steps=14)
    network = dataclasses.replace(network, shape=shape, solver=solver)
    return dataclasses.replace(
        post,
        name="wikitext103_preln_regularized",
        task=dataclasses.replace(post.task, network=network),
        penalty=PenaltyConfig(weight=2.0, probability=0.4, increment=0.1, increment_every=30_000),
    )
