"""Whether training that stops and goes on ends in the same state, bit for bit.

A language model with memory and dropout, and an image model with batch normalizations, both with a
Jacobian penalty, by the engine and its checkpoints: 2k steps twice, and k + k steps. The two runs
of 2k tell apart a device that computes a sum in another order each time from a resume that forgets
something.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from accelerated.part import Options, Tell
from deqjax import cli, training
from deqjax.training import RunConfig
from tiny_runs import image_run, text_run, write_text


def measure(options: Options, tell: Tell) -> None:
    """Both runs, and under which flags."""
    tell("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    steps = 4 if options.tiny else 10
    text = options.folder / "text"
    write_text(text, seed=0)
    # programs of the first run serve the others, as they do a run that is started again
    training.keep_compiled_programs(options.folder / "programs")
    runs = {"images": image_run(2 * steps), "language": text_run(2 * steps, options.folder, text)}
    for name, words in list(runs.items())[: 1 if options.tiny else 2]:
        tell(name, compared(_larger(configuration(words), options.tiny), options.folder / name))


def configuration(words: list[str]) -> RunConfig:
    """Of the command line's words; at a constant rate, so that half as many steps are the same."""
    config: RunConfig = cli.parse(["train", *words]).config
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, schedule="constant", warmup_steps=0),
        evaluation=dataclasses.replace(config.evaluation, every=10**6, radius_batches=0),
        checkpoint_every=10**6,
    )


def _larger(config: RunConfig, tiny: bool) -> RunConfig:
    """At sizes for which a device chooses its ways as for real models."""
    if tiny:
        return config
    task = config.task
    network = task.network
    if hasattr(task, "text"):
        sizes = {"length": 64, "memory_length": 64, "width": 256, "heads": 4, "hidden": 1024}
        network = dataclasses.replace(network, shape=dataclasses.replace(network.shape, **sizes))
    else:
        residual = dataclasses.replace(network.residual, channels=(32,), groups=8)
        network = dataclasses.replace(network, residual=residual)
    return dataclasses.replace(
        config, task=dataclasses.replace(task, network=network), batch_size=32
    )


def compared(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Whether the states are equal, and where they are not, by how much."""
    half = dataclasses.replace(config, steps=config.steps // 2)
    first, again = folder / "first", folder / "again"
    whole = _trained(config, first)
    repeated = _trained(config, again)
    _trained(half, folder / "resumed")
    resumed = _trained(config, folder / "resumed", resume=True)
    found: dict[str, Any] = {
        "steps": config.steps,
        "the same run again is equal": repeated == whole,
        "a resumed run is equal": resumed == whole,
    }
    for name, other in {"again": repeated, "resumed": resumed}.items():
        if other != whole:
            found[f"largest difference, {name}"] = _difference(first, folder / name)
    return found


def _trained(config: RunConfig, folder: Path, *, resume: bool = False) -> str | None:
    """The hash of the last state."""
    return training.train(config, folder, resume=resume, say=lambda line: None).state_hash


def _difference(first: Path, second: Path) -> float:
    """Of any two parameters."""

    def parameters(folder: Path):
        return jax.tree.leaves(training.load_run(folder, say=print).state.weights.parameters)

    pairs = zip(parameters(first), parameters(second), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
