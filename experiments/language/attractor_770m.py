"""An attractor language model of 772 million parameters, about as many as the published 770.

Command:   deqjax train experiments/language/attractor_770m.py --task.text.file texts \
               --parallel sharded
Hardware:  16 chips of 16 GiB, such as a TPU v5e:4x4; deqjax estimate with this file tells the plan
Time:      not run by us
Expected:  of the published one: validation perplexity 12.09 on the authors' corpus, 13.08 of a
           Transformer
Data:      texts in UTF-8, a file or a folder; pieces of words (pip install '.[pieces]'), by
           --task.text.tokenizer tokenizer.json or trained on the texts themselves
Weights:   deqjax convert OWNER/NAME --recipe experiments/language/attractor_770m.py --out run \
               --file texts

As attractor_140m.py, with heads as wide. Width and depth are ours, chosen for the number of
parameters: 772 million. A published configuration replaces them where weights are converted.
"""

import dataclasses
from pathlib import Path

from deqjax.training import RunConfig, load_experiment


def config() -> RunConfig:
    """Width 2048, 13 blocks before the head."""
    small = load_experiment(Path(__file__).with_name("attractor_140m.py"))
    network = small.task.network
    shape = dataclasses.replace(
        network.shape, width=2_048, heads=16, hidden=8_192, prelude_layers=13
    )
    network = dataclasses.replace(network, shape=shape)
    return dataclasses.replace(
        small,
        name="attractor_770m",
        task=dataclasses.replace(small.task, network=network),
    )
