"""What a language task trains, and on which text."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Interval

from deqjax._ranges import Layers
from deqjax.models import AttractorShape, SolverSettings, TransformerShape, attractor_settings


@dataclasses.dataclass(frozen=True)
class LanguageNetwork:
    """Which network is trained.

    Attributes:
        kind: "deq_transformer" and "deq_trellisnet" iterate one layer to its fixed point;
            "transformer_xl" stacks untied layers.
        depth: layers of the explicit baseline.
        shape: sizes, shared by all kinds; TrellisNet has no use for those of attention. A
            vocabulary of None is counted.
        solver: how the equilibrium is found and differentiated.
    """

    kind: Literal["deq_transformer", "deq_trellisnet", "transformer_xl"] = "deq_transformer"
    depth: Layers = 4
    shape: TransformerShape = dataclasses.field(default_factory=TransformerShape)
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)

    @property
    def solves(self) -> bool:
        """Whether it is an equilibrium model."""
        return self.kind != "transformer_xl"


@dataclasses.dataclass(frozen=True)
class AttractorNetwork:
    """Which attractor language model is trained.

    Attributes:
        shape: sizes. A vocabulary of None is counted; without head blocks it is a plain
            Transformer.
        solver: how the equilibrium is found and differentiated; the default is as published.
    """

    shape: AttractorShape = dataclasses.field(default_factory=AttractorShape)
    solver: SolverSettings = dataclasses.field(default_factory=attractor_settings)

    @property
    def solves(self) -> bool:
        """Whether it is an equilibrium model."""
        return self.shape.head_layers > 0


@dataclasses.dataclass(frozen=True)
class Text:
    """What it is trained on.

    Attributes:
        corpus: "stdlib" is CPython's own standard library sources as bytes, split by file;
            "text_bytes", "text_characters", "text_words" and "text_pieces" (of words, by byte pair
            encoding) are a text of yours; "wikitext2" and "wikitext103" are word-level.
        file: the text: a file, or a folder of them, which are taken in the order of their paths.
        limit_vocabulary: so many symbols at most in the vocabulary of "text_words" or
            "text_pieces"; None is 50,000 or 32,768.
        tokenizer: a tokenizer.json of the package tokenizers for "text_pieces"; None trains one on
            the training text.
        directory: folder of prepared data sets; None is TFDS's default.
        manual_directory: folder of downloaded archives; None is TFDS's default.
    """

    corpus: Literal[
        "stdlib",
        "text_bytes",
        "text_characters",
        "text_words",
        "text_pieces",
        "wikitext2",
        "wikitext103",
    ] = "stdlib"
    file: str | None = None
    limit_vocabulary: Annotated[int, Interval(ge=3, le=1_000_000)] | None = None
    tokenizer: str | None = None
    directory: str | None = None
    manual_directory: str | None = None
