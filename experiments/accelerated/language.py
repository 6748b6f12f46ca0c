"""Tokens a second of the regularized WikiText-103 recipe, against an explicit Transformer-XL.

The explicit model is a stack of 12 untied layers of the recipe's width, whose hidden features give
it as many parameters, 98 million. Same softmax, segments, memory, optimizer and batch. Both in
float32 (with the device's default matrix products) and in bfloat16. Tokens are random.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accelerated import throughput
from accelerated.part import Options, Tell
from accelerated.throughput import Contest
from deqjax.training import PenaltyConfig, RunConfig, load_experiment

RECIPE = Path(__file__).parents[1] / "language" / "wikitext103_regularized.py"
DEPTH, HIDDEN = 12, 2_500


class RandomSegments(NamedTuple):
    """Rows of random text, as a language task's loss takes them.

    Attributes:
        tokens: (rows, length + 1) int32.
        fresh: (rows,) bool; none, as in the middle of a text.
        scored: (rows, length) bool; all.
    """

    tokens: Any
    fresh: Any
    scored: Any


def measure(options: Options, tell: Tell) -> None:
    """All four."""
    throughput.measure(contests(options.tiny), options, tell)


def contests(tiny: bool) -> Mapping[str, Contest]:
    """The two models in both precisions."""
    equilibrium = load_experiment(RECIPE)
    if tiny:
        equilibrium = _smallest(equilibrium)
    models = {"DEQ-Transformer": equilibrium, "Transformer-XL": explicit(equilibrium, tiny)}
    precisions = ("float32",) if tiny else ("float32", "bfloat16")
    return {
        f"{name}, {dtype}": _contest(config, dtype)
        for dtype in precisions
        for name, config in models.items()
    }


def explicit(equilibrium: RunConfig, tiny: bool) -> RunConfig:
    """The stack of untied layers, without a penalty."""
    network = equilibrium.task.network
    sizes = {} if tiny else {"hidden": HIDDEN}
    network = dataclasses.replace(
        network,
        kind="transformer_xl",
        depth=2 if tiny else DEPTH,
        shape=dataclasses.replace(network.shape, weight_norm=False, **sizes),
    )
    return dataclasses.replace(
        equilibrium,
        task=dataclasses.replace(equilibrium.task, network=network),
        penalty=PenaltyConfig(weight=0.0),
    )


def _contest(config: RunConfig, dtype: str) -> Contest:
    network = config.task.network
    shape = dataclasses.replace(network.shape, dtype=dtype)
    task = dataclasses.replace(config.task, network=dataclasses.replace(network, shape=shape))
    rows = partial(_rows, shape.tokens, shape.length)
    return Contest(dataclasses.replace(config, task=task), rows, "tokens", shape.length)


def _rows(tokens: int, length: int, rows: int) -> RandomSegments:
    drawn = np.random.default_rng(0).integers(0, tokens, (rows, length + 1), dtype=np.int32)
    return RandomSegments(drawn, np.zeros(rows, bool), np.ones((rows, length), bool))


def _smallest(config: RunConfig) -> RunConfig:
    network = config.task.network
    sizes = {
        "vocabulary": 60,
        "cutoffs": (20,),
        "tie_projections": (False, True),
        "divisor": 2,
        "length": 8,
        "memory_length": 8,
        "width": 8,
        "heads": 2,
        "hidden": 16,
    }
    network = dataclasses.replace(
        network,
        shape=dataclasses.replace(network.shape, **sizes),
        solver=dataclasses.replace(
            network.solver, max_steps=4, backward_max_steps=3, history=2, backward_history=3
        ),
    )
    task = dataclasses.replace(config.task, network=network)
    limit = dataclasses.replace(config.step_limit, least=2)
    return dataclasses.replace(config, task=task, batch_size=2, step_limit=limit)
