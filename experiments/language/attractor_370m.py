"""An attractor language model of 362 million parameters, about as many as the published 370.

Command:   deqjax train experiments/language/attractor_370m.py --task.text.file texts \
               --parallel sharded
Hardware:  8 chips of 16 GiB, such as a TPU v5e:2x4: 6.9 GiB on each (deqjax estimate)
Time:      not run by us; a step takes 1.6 s at the least if every solve takes all its steps
Expected:  of the published one: validation perplexity 14.03 on the authors' corpus, 15.79 of a
           Transformer
Data:      texts in UTF-8, a file or a folder; pieces of words (pip install '.[pieces]'), by
           --task.text.tokenizer tokenizer.json or trained on the texts themselves
Weights:   deqjax convert OWNER/NAME --recipe experiments/language/attractor_370m.py --out run \
               --file texts

As attractor_140m.py, with heads as wide. Width and depth are ours, chosen for the number of
parameters: 362 million. A published configuration replaces them where weights are converted.
"""

import dataclasses
from pathlib import Path

from deqjax.training import RunConfig, load_experiment


def config() -> RunConfig:
    """Width 1536, 10 blocks before the head."""
    small = load_experiment(Path(__file__).with_name("attractor_140m.py"))
    network = small.task.network
    shape = dataclasses.replace(
        network.shape, width=1_536, heads=12, hidden=6_144, prelude_layers=10
    )
    network = dataclasses.replace(network, shape=shape)
    return dataclasses.replace(
        small,
        name="attractor_370m",
        task=dataclasses.replace(small.task, network=network),
    )
