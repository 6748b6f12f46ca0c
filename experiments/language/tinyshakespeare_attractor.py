"""An attractor language model on Shakespeare, at the size and budget of tinyshakespeare.py.

Command:   deqjax train experiments/language/tinyshakespeare_attractor.py \
               --task.text.file tinyshakespeare.txt
Hardware:  two CPU cores, no GPU
Time:      about 5 minutes
Expected:  see experiments/results/tinyshakespeare.json
Data:      as tinyshakespeare.py
Variants:  --task.network.shape.head_layers 0 --task.network.shape.prelude_layers 4
                                              the same blocks as a plain Transformer

arXiv 2605.12466: three blocks of a Transformer make a context, a fourth is solved for its fixed
point around it. Width and heads are those of the explicit baseline, the feed-forward gives the
parameters of its relative positions back.
"""

import dataclasses
from pathlib import Path

from deqjax.models import AttractorShape, attractor_settings
from deqjax.tasks.language import AttractorNetwork, AttractorTask
from deqjax.training import RunConfig, load_experiment


def config() -> RunConfig:
    """The same data, budget and optimizer."""
    deq = load_experiment(Path(__file__).with_name("tinyshakespeare.py"))
    shape = AttractorShape(
        vocabulary=65,
        length=64,
        width=128,
        heads=4,
        hidden=506,
        prelude_layers=3,
        head_layers=1,
    )
    solver = dataclasses.replace(attractor_settings(), min_steps=2, max_steps=12, tol=1e-2)
    network = AttractorNetwork(shape=shape, solver=solver)
    return dataclasses.replace(
        deq,
        name="tinyshakespeare_attractor",
        task=AttractorTask(network=network, text=deq.task.text, head_rate=0.5),
        penalty=dataclasses.replace(deq.penalty, weight=0.0),
    )
