"""What every task of text has: its corpus, its vocabulary, its batches and scores."""

import copy
import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from deqjax import data
from deqjax.data import Corpus, Vocabulary
from deqjax.models import LanguageModel
from deqjax.tasks._network import SOLVER_CHANGES, check_solver
from deqjax.tasks.language._batches import Segments, TextRows, bigram_nats
from deqjax.tasks.language._config import Text
from deqjax.tasks.language._prompt import usual_prompt
from deqjax.training import ConfigError, Loss, Task


@dataclasses.dataclass(frozen=True)
class TextTask(Task):
    """Predict the next token of a text; losses are in nats per token.

    The base of tasks that say which ``network`` it is: a frozen dataclass with a ``shape``, which
    has a ``vocabulary`` (None is counted), a ``length`` and a ``dtype``, and a ``solver``.

    Scores stand beside those of a bigram model on the very same tokens, where there are at most 256
    different ones.

    Attributes:
        network: which network is trained.
        text: what it is trained on.
        resumable: what may differ when a run goes on.
    """

    network: Any = None
    text: Text = dataclasses.field(default_factory=Text)

    resumable: ClassVar[tuple[str, ...]] = (
        *SOLVER_CHANGES,
        "text.directory",
        "text.manual_directory",
    )

    def check(self) -> None:
        """Raise a ConfigError for fields that do not go together."""
        if self.text.corpus.startswith("text_") and self.text.file is None:
            raise ConfigError(
                f"--task.text.corpus {self.text.corpus} needs a text file: give --task.text.file."
            )
        dtype = self.network.shape.dtype
        check_solver(self.network.solver, dtype, "--task.network.shape.dtype")

    @property
    def remembers(self) -> bool:
        """Whether the rows of a batch must read on where they stopped, for a memory."""
        return False

    def opened(self, kept: Mapping[str, Any] | None) -> Self:
        """The task with its vocabulary: counted, or the one that a run has kept.

        Raises:
            DataError: the corpus is missing or damaged.
            ConfigError: the network knows fewer tokens than there are.
        """
        opened = copy.copy(self)
        if kept is not None:  # the text is read when it is first asked for
            opened.__dict__.pop("corpus", None)
            opened.__dict__["vocabulary"] = Vocabulary.from_dict(kept["vocabulary"])
        object.__setattr__(opened, "network", _counted(self.network, opened.vocabulary))
        return opened

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """What tokens stand for."""
        return self.corpus.vocabulary

    @property
    def prompt(self) -> str | None:
        """A text to try a model with, which its vocabulary knows; None if none comes to mind."""
        return usual_prompt(self.vocabulary)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The text, in tokens of the vocabulary."""
        return load_corpus(self.text, self.__dict__.get("vocabulary"))

    @functools.cached_property
    def bigram(self) -> NDArray[np.float64] | None:
        """Bigram log2-probabilities (256, 256) of the training split; None above 256 tokens."""
        return data.fit_bigram(self.corpus.train) if self.vocabulary.size <= 256 else None

    def keeps(self) -> Mapping[str, Any]:
        """The vocabulary."""
        return {"vocabulary": self.vocabulary.to_dict()}

    def data(self, split: str) -> TextRows | None:
        """A split of the text; a text of one's own has none for tests."""
        shape, tokens = self.network.shape, getattr(self.corpus, split)
        if not tokens.size and split == "test":
            return None
        return TextRows(
            tokens,
            length=shape.length,
            kind=self.vocabulary.kind,
            ordered=self.remembers,
        )

    def example(self, rows: int) -> Segments | None:
        """Random tokens that continue others; None as long as their number is to be counted."""
        shape = self.network.shape
        if shape.vocabulary is None:
            return None
        size = (rows, shape.length + 1)
        tokens = np.random.default_rng(0).integers(0, shape.vocabulary, size, dtype=np.int32)
        return Segments(tokens, np.zeros(rows, bool), np.ones((rows, shape.length), bool))

    def loss(self, model: LanguageModel, batch: Segments, memory: Any = None) -> Loss:
        """Predict the next tokens of a batch of segments."""
        before = None if memory is None else memory.cleared(batch.fresh)
        prediction = model(batch.tokens[:, :-1], before)
        nats = model.negative_log_likelihood(prediction.states, batch.tokens[:, 1:])
        kept = None if memory is None else prediction.memory
        return Loss(nats, weights=jnp.asarray(batch.scored, jnp.float32), memory=kept)

    def throughput(self, rows: int) -> tuple[str, int]:
        """Tokens."""
        return "tokens", rows * self.network.shape.length

    def in_units(self, loss: float) -> dict[str, float]:
        """Nats per token, and bits per byte, or perplexity of words and pieces."""
        match self.vocabulary.kind:
            case "bytes":
                return {"loss": loss, "bits_per_byte": loss / math.log(2)}
            case "words" | "pieces":
                return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
            case "characters":
                return {"loss": loss}

    def baselines(self, batches: Iterable[Segments]) -> dict[str, float]:
        """The scores of a bigram model."""
        if self.bigram is None:
            return {}
        nats = bigram_nats(self.bigram, iter(batches))
        return {f"bigram_{name}": value for name, value in self.in_units(nats).items()}


def _counted(network: Any, vocabulary: Vocabulary) -> Any:
    """The network with as many tokens as there are, unless it says how many."""
    shape, known = network.shape, vocabulary.size
    if shape.vocabulary is None:
        return dataclasses.replace(network, shape=dataclasses.replace(shape, vocabulary=known))
    if shape.vocabulary < known:
        raise ConfigError(
            f"--task.network.shape.vocabulary must be at least {known} for the {vocabulary.kind} "
            f"of this corpus, got {shape.vocabulary}; leave it out, and it is counted."
        )
    return network


def load_corpus(text: Text, vocabulary: Vocabulary | None = None) -> Corpus:
    """Read a corpus, preparing it on first use.

    Args:
        text: which one.
        vocabulary: of a run that was trained; None counts one.

    Raises:
        DataError: it is missing or damaged.
    """
    return data.load_corpus(
        text.corpus,
        directory=text.directory,
        file=text.file,
        manual_directory=text.manual_directory,
        limit_vocabulary=text.limit_vocabulary,
        tokenizer=text.tokenizer,
        vocabulary=vocabulary,
    )
