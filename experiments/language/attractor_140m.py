"""The published attractor language model of 140 million parameters, to train on a text of yours.

Command:   deqjax train experiments/language/attractor_140m.py --task.text.file texts \
               --parallel sharded
Hardware:  4 chips of 16 GiB, such as a TPU v5e:2x2: 7.4 GiB on each (deqjax estimate)
Time:      not run by us; a step takes 2.2 s at the least if every solve takes all its steps
Expected:  reported validation perplexity 18.30 on the authors' corpus, against 21.48 of a
           Transformer
Data:      texts in UTF-8, a file or a folder; pieces of words (pip install '.[pieces]'), by
           --task.text.tokenizer tokenizer.json or trained on the texts themselves
Weights:   deqjax convert OWNER/NAME --recipe experiments/language/attractor_140m.py --out run \
               --file texts

arXiv 2605.12466: seven blocks of a Transformer make a context, an eighth is solved for its fixed
point around it and learns half as fast. Sizes, gates and solver are those of the paper; optimizer,
schedule, batch and precision are ours.
"""

import dataclasses

from deqjax.models import AttractorShape, attractor_settings
from deqjax.tasks.language import AttractorNetwork, AttractorTask, Text
from deqjax.training import EvaluationConfig, OptimizerConfig, PenaltyConfig, RunConfig


def config() -> RunConfig:
    """Width 1024, 7 blocks before the head, 64 rows of 2048 tokens a step."""
    shape = AttractorShape(
        vocabulary=32_768,
        length=2_048,
        width=1_024,
        heads=8,
        hidden=4_096,
        prelude_layers=7,
        head_layers=1,
        rotary_base=50_000.0,
        recompute=True,
        dtype="bfloat16",
    )
    # what bfloat16 can show of a residual
    solver = dataclasses.replace(attractor_settings(), tol=1e-2)
    return RunConfig(
        name="attractor_140m",
        task=AttractorTask(
            network=AttractorNetwork(shape=shape, solver=solver),
            text=Text(corpus="text_pieces", file="texts"),
            head_rate=0.5,
        ),
        steps=20_000,
        batch_size=64,
        log_every=50,
        checkpoint_every=1_000,
        optimizer=OptimizerConfig(
            learning_rate=6e-4,
            warmup_steps=500,
            final_fraction=0.1,
            weight_decay=0.1,
            beta2=0.95,
            clip_norm=1.0,
        ),
        penalty=PenaltyConfig(weight=0.0),
        evaluation=EvaluationConfig(every=1_000, batches=8, final_batches=64),
    )
