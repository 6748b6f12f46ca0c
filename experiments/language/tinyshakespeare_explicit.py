"""The explicit baseline of tinyshakespeare.py: a Transformer-XL of four untied layers.

Command:   deqjax train experiments/language/tinyshakespeare_explicit.py \
               --data.file tinyshakespeare.txt
Hardware:  two CPU cores, no GPU
Time:      about 3 minutes
Expected:  see experiments/results/tinyshakespeare.json
Data:      as tinyshakespeare.py

Width, heads and depth are those of nanoGPT's CPU example; the feed-forward gives the parameters of
the relative positions back.
"""

import dataclasses
from pathlib import Path

from deqjax.training import TrainConfig, load_experiment


def config() -> TrainConfig:
    """The same data, budget and optimizer."""
    deq = load_experiment(Path(__file__).with_name("tinyshakespeare.py"))
    shape = dataclasses.replace(deq.model.shape, width=128, heads=4, hidden=440)
    model = dataclasses.replace(deq.model, kind="transformer_xl", depth=4, shape=shape)
    penalty = dataclasses.replace(deq.penalty, weight=0.0)
    return dataclasses.replace(deq, name="tinyshakespeare_explicit", model=model, penalty=penalty)
