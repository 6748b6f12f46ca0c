"""The explicit baseline of tinyshakespeare.py: a Transformer-XL of four untied layers.

Command:   deqjax train experiments/language/tinyshakespeare_explicit.py \
               --task.text.file tinyshakespeare.txt
Hardware:  two CPU cores, no GPU
Time:      about 3 minutes
Expected:  see experiments/results/tinyshakespeare.json
Data:      as tinyshakespeare.py

Width, heads and depth are those of nanoGPT's CPU example; the feed-forward gives the parameters of
the relative positions back.
"""

import dataclasses
from pathlib import Path

from deqjax.training import RunConfig, load_experiment


def config() -> RunConfig:
    """The same data, budget and optimizer."""
    deq = load_experiment(Path(__file__).with_name("tinyshakespeare.py"))
    network = deq.task.network
    shape = dataclasses.replace(network.shape, width=128, heads=4, hidden=440)
    network = dataclasses.replace(network, kind="transformer_xl", depth=4, shape=shape)
    return dataclasses.replace(
        deq,
        name="tinyshakespeare_explicit",
        task=dataclasses.replace(deq.task, network=network),
        penalty=dataclasses.replace(deq.penalty, weight=0.0),
    )
