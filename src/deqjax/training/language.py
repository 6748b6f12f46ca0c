"""From a configuration to the model, the data and the scores of a language model."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from deqjax import data
from deqjax.data import Corpus, Vocabulary
from deqjax.models import DEQTransformerLM, DEQTrellisNetLM, LanguageModel, TransformerXL
from deqjax.training import parallel
from deqjax.training.config import ConfigError, ModelConfig, TrainConfig
from deqjax.training.parallel import DataParallel
from deqjax.training.step import Batch, SolveLimits

Tokens = NDArray[Any]


def load_corpus(config: TrainConfig) -> Corpus:
    """Read the configured corpus, preparing it on first use.

    Raises:
        DataError: it is missing or damaged.
        ConfigError: the model's vocabulary is smaller than the corpus's.
    """
    chosen = config.data
    corpus = data.load_corpus(
        chosen.corpus,
        directory=chosen.directory,
        file=chosen.file,
        manual_directory=chosen.manual_directory,
    )
    if config.model.shape.vocabulary < corpus.vocabulary.size:
        raise ConfigError(
            f"--model.shape.vocabulary must be at least {corpus.vocabulary.size} for the "
            f"{corpus.vocabulary.kind} of this corpus, got {config.model.shape.vocabulary}."
        )
    return corpus


def build_model(config: ModelConfig, seed: int) -> LanguageModel:
    """The configured model, freshly initialized.

    Raises:
        ConfigError: sizes that do not go together.
    """
    rngs = nnx.Rngs(seed)
    try:
        match config.kind:
            case "transformer_xl":
                return TransformerXL(config.shape, config.depth, rngs=rngs)
            case "deq_trellisnet":
                return DEQTrellisNetLM(config.shape, config.solver, rngs=rngs)
            case "deq_transformer":
                return DEQTransformerLM(config.shape, config.solver, rngs=rngs)
    except ValueError as error:
        raise ConfigError(f"--model: {error}") from error


def solves(config: ModelConfig) -> bool:
    """Whether the model is an equilibrium model."""
    return config.kind != "transformer_xl"


class TrainBatches:
    """This process's endless, resumable batches.

    Attributes:
        iterator: Grain's iterator, which holds the position.
    """

    def __init__(self, config: TrainConfig, tokens: Tokens) -> None:
        share: dict[str, Any] = {
            "length": config.model.shape.length,
            "batch_size": config.data.batch_size,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
        }
        if config.data.order == "streams":
            self.iterator = data.stream_batches(tokens, **share)
        else:
            self.iterator = data.train_batches(tokens, seed=config.seed, **share)

    def __next__(self) -> Batch:
        found = next(self.iterator)
        if isinstance(found, data.StreamBatch):
            return Batch(found.tokens, found.fresh)
        return Batch(found, np.ones(len(found), bool))


def evaluation_batches(
    config: TrainConfig, tokens: Tokens, *, rows: int, batches: int
) -> Iterator[Batch]:
    """One pass over a split, in the order that the model was trained in."""
    length = config.model.shape.length
    if config.data.order == "streams":
        for segment in data.stream_evaluation_batches(
            tokens, length=length, batch_size=rows, limit=batches
        ):
            yield Batch(segment.tokens, segment.fresh, segment.scored)
        return
    for windows in data.evaluation_batches(tokens, length=length, batch_size=rows, limit=batches):
        yield Batch(windows, np.ones(rows, bool), np.ones((rows, length), bool))


def data_fingerprint(config: TrainConfig, tokens: Tokens) -> str:
    """What the training batches depend on, as a short hash."""
    return data.fingerprint(
        tokens,
        length=config.model.shape.length,
        batch_size=config.data.batch_size,
        seed=config.seed,
        process_count=jax.process_count(),
        order="stream" if config.data.order == "streams" else "shuffled",
    )


def fit_baseline(corpus: Corpus) -> NDArray[np.float64] | None:
    """Bigram log2-probabilities (256, 256) of the training split; None above 256 tokens."""
    return data.fit_bigram(corpus.train) if corpus.vocabulary.size <= 256 else None


def in_units(nats: float, vocabulary: Vocabulary) -> dict[str, float]:
    """A loss in nats per token as what people compare: bits per byte, or perplexity of words."""
    match vocabulary.kind:
        case "bytes":
            return {"loss": nats, "bits_per_byte": nats / math.log(2)}
        case "words":
            return {"loss": nats, "perplexity": math.exp(min(nats, 700.0))}
        case "characters":
            return {"loss": nats}


def evaluate(
    config: TrainConfig,
    steps: DataParallel,
    parameters: Any,
    corpus: Corpus,
    split: str,
    *,
    batches: int,
    bigram: NDArray[np.float64] | None,
    limits: SolveLimits | None = None,
) -> dict[str, float]:
    """Score a model on a split, next to a bigram model on the very same tokens.

    Args:
        config: the run's configuration.
        steps: mapped steps.
        parameters: replicated parameters.
        corpus: the corpus.
        split: "train", "validation" or "test".
        batches: batches to score at most.
        bigram: from :func:`fit_baseline`.
        limits: tolerance and step limit of the solves; None is the configuration's.

    Returns:
        "loss" (nats per token) and its other units, the bigram model's, "tokens_scored", solver
        statistics as in training, and "spectral_radius" (mean) and "spectral_radius_max" over rows.

    Raises:
        ConfigError: the split has no text.
    """
    if limits is None:
        limits = SolveLimits(config.model.solver.tol, config.model.solver.max_steps)
    tokens: Tokens = getattr(corpus, split)
    length = config.model.shape.length
    if tokens.size <= length:
        raise ConfigError(
            f"the {split} split of {config.data.corpus} has {tokens.size} tokens, too few to score."
        )
    # a split with less text than a training batch is scored in fewer rows
    rows = min(config.data.batch_size, tokens.size // (length + 1))
    rows = max(rows // steps.devices, 1) * steps.devices
    scored, radii, baseline = [], [], []
    key = jax.random.key(config.seed)
    memory = None
    if config.model.shape.memory_length:
        # of the parameters only their dtype is asked for
        model = steps.problem.architecture.build(parameters, train=False)
        memory = steps.share(model.initial_memory(rows))
    for index, batch in enumerate(evaluation_batches(config, tokens, rows=rows, batches=batches)):
        if solves(config.model) and index < config.evaluation.radius_batches:
            own_key = jax.random.fold_in(key, index)
            radii.append(steps.radius(parameters, batch, memory, limits, own_key))
        metrics, memory = steps.evaluate(parameters, batch, memory, limits)
        scored.append(parallel.first_replica(metrics))
        if bigram is not None:
            baseline.append(-bigram[batch.tokens[:, :-1], batch.tokens[:, 1:]][batch.scored])
    counts = np.array([m.pop("scored") for m in scored], np.float64)
    losses = np.array([m.pop("loss") for m in scored], np.float64)
    found = {name: float(np.mean([m[name] for m in scored])) for name in scored[0]}
    found |= in_units(float(np.sum(losses * counts) / np.sum(counts)), corpus.vocabulary)
    if baseline:
        nats = float(np.mean(np.concatenate(baseline))) * math.log(2)
        found |= {f"bigram_{k}": v for k, v in in_units(nats, corpus.vocabulary).items()}
    found["tokens_scored"] = float(np.sum(counts)) * steps.devices
    if radii:
        found["spectral_radius"] = float(np.mean(np.concatenate(radii)))
        found["spectral_radius_max"] = float(np.max(np.concatenate(radii)))
    return found
