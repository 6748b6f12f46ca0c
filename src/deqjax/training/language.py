"""From a configuration to the model, the data and the scores of a byte language model."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from deqjax import data
from deqjax.models import DEQTransformerLM, ExplicitTransformerLM, LanguageModel
from deqjax.training import parallel
from deqjax.training.config import ModelConfig, TrainConfig
from deqjax.training.parallel import DataParallel
from deqjax.training.step import SolveLimits

Tokens = NDArray[np.uint8]


class Corpus(NamedTuple):
    """The splits of a corpus as bytes."""

    train: Tokens
    validation: Tokens
    test: Tokens


def load_corpus(config: TrainConfig) -> Corpus:
    """Read the configured corpus, preparing it on first use."""
    return Corpus(*(data.load_bytes(s, directory=config.data.directory) for s in Corpus._fields))


def build_model(config: ModelConfig, seed: int) -> LanguageModel:
    """The configured model, freshly initialized."""
    rngs = nnx.Rngs(seed)
    if config.kind == "explicit":
        return ExplicitTransformerLM(config.shape, config.depth, rngs=rngs)
    return DEQTransformerLM(config.shape, config.solver, rngs=rngs)


def train_batches(config: TrainConfig, tokens: Tokens) -> Any:
    """This process's endless, resumable iterator over training windows."""
    return data.train_batches(
        tokens,
        length=config.model.shape.length,
        batch_size=config.data.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def data_fingerprint(config: TrainConfig, tokens: Tokens) -> str:
    """What the training batches depend on, as a short hash."""
    return data.fingerprint(
        tokens,
        length=config.model.shape.length,
        batch_size=config.data.batch_size,
        seed=config.seed,
        process_count=jax.process_count(),
    )


def evaluate(
    config: TrainConfig,
    steps: DataParallel,
    parameters: Any,
    tokens: Tokens,
    *,
    batches: int,
    bigram: NDArray[np.float64],
    limits: SolveLimits | None = None,
) -> dict[str, float]:
    """Score a model on a split, next to a bigram model on the very same bytes.

    Args:
        config: the run's configuration.
        steps: mapped steps.
        parameters: replicated parameters.
        tokens: the split to score, (bytes,) uint8.
        batches: batches to score at most, spread evenly over the split.
        bigram: log2-probabilities (256, 256) of the bigram model fitted on the training split.
        limits: tolerance and step limit of the solves; None is the configuration's.

    Returns:
        "bits_per_byte", "bigram_bits_per_byte", solver statistics as in training, and
        "spectral_radius" (mean) and "spectral_radius_max" over sequences.
    """
    if limits is None:
        solver = config.model.solver
        limits = SolveLimits(solver.tol, solver.max_steps)
    length, batch_size = config.model.shape.length, config.data.batch_size
    # a split with fewer windows than a training batch is scored in smaller ones
    windows = len(data.ByteWindows(tokens, length))
    batch_size = min(batch_size, windows // steps.devices * steps.devices)
    scored, radii, seen = [], [], []
    key = jax.random.key(config.seed)
    for index, batch in enumerate(
        data.evaluation_batches(tokens, length=length, batch_size=batch_size, limit=batches)
    ):
        scored.append(parallel.first_replica(steps.evaluate(parameters, batch, limits)))
        seen.append(batch)
        if config.model.kind == "deq" and index < config.evaluation.radius_batches:
            radii.append(steps.radius(parameters, batch, limits, jax.random.fold_in(key, index)))
    metrics = {name: float(np.mean([m[name] for m in scored])) for name in scored[0]}
    metrics["bits_per_byte"] = metrics.pop("loss") / math.log(2)
    metrics["bigram_bits_per_byte"] = data.bits_per_byte(bigram, np.concatenate(seen))
    metrics["bytes_scored"] = float(len(seen) * batch_size * length)
    if radii:
        metrics["spectral_radius"] = float(np.mean(np.concatenate(radii)))
        metrics["spectral_radius_max"] = float(np.max(np.concatenate(radii)))
    return metrics
