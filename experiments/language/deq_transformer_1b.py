"""A DEQ-Transformer of a billion parameters, whose state no single chip of 16 GiB holds.

Command:   deqjax train experiments/language/deq_transformer_1b.py --parallel sharded
Hardware:  16 chips of 16 GiB, such as a TPU v5e:4x4; deqjax estimate with this file tells the plan
           (experiments/results/estimate.json)
Time:      not run by us
Expected:  unknown; the layer, the solver and the penalty are those of wikitext103_regularized.py,
           seven times as wide
Data:      as wikitext103.py
"""

import dataclasses
from pathlib import Path

from deqjax.training import RunConfig, load_experiment


def config() -> RunConfig:
    """Width 5,120 and 65,536 features inside, in bfloat16; 32 rows, two on each of 16 chips."""
    small = load_experiment(Path(__file__).with_name("wikitext103_regularized.py"))
    network = small.task.network
    shape = dataclasses.replace(
        network.shape,
        length=192,
        memory_length=192,
        width=5_120,
        heads=40,
        hidden=65_536,
        dtype="bfloat16",
    )
    network = dataclasses.replace(network, shape=shape)
    return dataclasses.replace(
        small,
        name="deq_transformer_1b",
        task=dataclasses.replace(small.task, network=network),
        batch_size=32,
    )
