"""From a configuration to the model, the data and the scores of a language model."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from deqjax import data
from deqjax.adjoints import BackwardStats
from deqjax.data import Corpus, Vocabulary
from deqjax.models import (
    DEQTransformerLM,
    DEQTrellisNetLM,
    LanguageModel,
    SegmentMemory,
    TransformerXL,
)
from deqjax.training._config import ConfigError
from deqjax.training._language_config import ModelConfig, TrainConfig
from deqjax.training._scoring import score
from deqjax.training._task import Rows, Task, TrainBatches
from deqjax.training.devices import DataParallel
from deqjax.training.step import Forward, SolveLimits, Weights

Tokens = NDArray[Any]


class Batch(NamedTuple):
    """One device's rows of text; on the host, those of all its devices.

    Attributes:
        tokens: (rows, length + 1) int32; each predicts the one after it.
        fresh: (rows,) bool, rows that do not continue those of the batch before.
        scored: (rows, length) bool, targets that count; None is all.
    """

    tokens: Rows
    fresh: Rows
    scored: Rows | None = None


def targets(batch: Batch) -> jax.Array:
    """The number of targets that count, () float32."""
    if batch.scored is None:
        rows, tokens = batch.tokens.shape
        return jnp.asarray(rows * (tokens - 1), jnp.float32)
    return jnp.sum(batch.scored, dtype=jnp.float32)


def forward(
    model: LanguageModel,
    batch: Batch,
    memory: SegmentMemory | None,
    probes: tuple[BackwardStats, ...],
    **options: Any,
) -> Forward:
    """Predict the next tokens of a batch of segments; the loss is in nats per token."""
    before = None if memory is None else memory.cleared(batch.fresh)
    probe = probes[0] if probes else None
    prediction = model(batch.tokens[:, :-1], before, probe=probe, **options)
    nats = model.negative_log_likelihood(prediction.states, batch.tokens[:, 1:])
    scored = jnp.ones_like(nats) if batch.scored is None else batch.scored.astype(jnp.float32)
    total = targets(batch)
    loss = jnp.sum(jnp.where(scored > 0, nats, 0)) / jnp.maximum(total, 1)
    kept = None if memory is None else prediction.memory
    solved, unrolled = prediction.equilibrium, prediction.unrolled
    return Forward(
        loss,
        total,
        {},
        jnp.any(scored > 0, axis=1),
        equilibria=() if solved is None else (solved,),
        memory=kept,
        unrolled=() if unrolled is None else (unrolled,),
    )


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


class TextBatches(TrainBatches):
    """Windows or segments of the training text."""

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
        """The next batch, on the host."""
        found = next(self.iterator)
        if isinstance(found, data.StreamBatch):
            return Batch(found.tokens, found.fresh)
        return Batch(found, np.ones(len(found), bool))


def evaluation_batches(
    config: TrainConfig, tokens: Tokens, *, rows: int, batches: int, process: int, processes: int
) -> Iterator[Batch]:
    """One process's share of a pass over a split, in the order that the model was trained in."""
    length = config.model.shape.length
    share: dict[str, Any] = {
        "length": length,
        "batch_size": rows,
        "limit": batches,
        "process_index": process,
        "process_count": processes,
    }
    if config.data.order == "streams":
        for segment in data.stream_evaluation_batches(tokens, **share):
            yield Batch(segment.tokens, segment.fresh, segment.scored)
        return
    for windows in data.evaluation_batches(tokens, **share):
        own = len(windows)
        yield Batch(windows, np.ones(own, bool), np.ones((own, length), bool))


def data_fingerprint(config: TrainConfig, tokens: Tokens) -> Mapping[str, Any]:
    """What the training batches depend on, as JSON values."""
    return data.fingerprint(
        tokens,
        length=config.model.shape.length,
        batch_size=config.data.batch_size,
        seed=config.seed,
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


class LanguageTask(Task):
    """A corpus, and scores on it next to those of a bigram model on the very same tokens."""

    speed = "tokens_per_second"

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.corpus = load_corpus(config)
        self.batches = TextBatches(config, self.corpus.train)
        self.fingerprint = data_fingerprint(config, self.corpus.train)
        self.examples = config.data.batch_size * config.model.shape.length

    @functools.cached_property
    def bigram(self) -> NDArray[np.float64] | None:
        """From `fit_baseline`."""
        return fit_baseline(self.corpus)

    def describe(self) -> str:
        """The size of the training text."""
        return f"{len(self.corpus.train):,} {self.corpus.vocabulary.kind} of training text"

    def in_units(self, loss: float) -> dict[str, float]:
        """See `in_units`."""
        return in_units(loss, self.corpus.vocabulary)

    def evaluate(
        self,
        steps: DataParallel,
        weights: Weights,
        split: str,
        *,
        batches: int,
        limits: SolveLimits | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Score a model on a split; see `Task`.

        The loss is in nats per token; the bigram model's stands beside it, and "tokens_scored".
        """
        config, tokens = self.config, getattr(self.corpus, split)
        shape = config.model.shape
        if tokens.size <= shape.length:
            raise ConfigError(
                f"the {split} split of {config.data.corpus} has {tokens.size} tokens, too few to "
                "score."
            )
        # a split with less text than a training batch is scored in fewer rows
        devices = steps.devices * jax.process_count()
        rows = min(config.data.batch_size, tokens.size // (shape.length + 1))
        rows = max(rows // devices, 1) * devices
        memory = None
        if shape.memory_length:
            # of the weights only their dtype is asked for
            model = steps.problem.architecture.build(weights, train=False)
            memory = steps.share(model.initial_memory(rows // jax.process_count()))
        taken = functools.partial(evaluation_batches, config, tokens, rows=rows, batches=batches)
        own_share = taken(process=jax.process_index(), processes=jax.process_count())
        scores = score(
            config, steps, weights, own_share, memory=memory, limits=limits, progress=progress
        )
        found = scores.metrics | self.in_units(scores.loss)
        found["tokens_scored"] = scores.scored
        if self.bigram is not None:
            whole = taken(process=0, processes=1)
            own = [-self.bigram[x.tokens[:, :-1], x.tokens[:, 1:]][x.scored] for x in whole]
            nats = float(np.mean(np.concatenate(own))) * math.log(2)
            found |= {f"bigram_{name}": value for name, value in self.in_units(nats).items()}
        return found
