"""The configuration of a run that trains a language model."""

import dataclasses
from typing import Literal, Self

from flax import nnx

from deqjax._ranges import Layers, Size
from deqjax.models import (
    DEQTransformerLM,
    SolverSettings,
    TransformerShape,
    TransformerXL,
)
from deqjax.training._config import ConfigError, RunConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which network is trained.

    Attributes:
        kind: "deq_transformer" and "deq_trellisnet" iterate one layer to its fixed point;
            "transformer_xl" stacks untied layers.
        depth: layers of the explicit baseline.
        shape: sizes, shared by all kinds; TrellisNet has no use for those of attention.
        solver: how the equilibrium is found and differentiated.
    """

    kind: Literal["deq_transformer", "deq_trellisnet", "transformer_xl"] = "deq_transformer"
    depth: Layers = 4
    shape: TransformerShape = dataclasses.field(default_factory=TransformerShape)
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What it is trained on.

    Attributes:
        corpus: "stdlib" is CPython's own standard library sources as bytes, split by file;
            "text_bytes", "text_characters" and "text_words" are a text of yours; "wikitext2" and
            "wikitext103" are word-level.
        file: the text, a file or a folder of them.
        order: "shuffled" draws windows at random; "streams" reads on where the row before stopped,
            so that memory carries over.
        batch_size: rows per step, over all devices and processes.
        directory: folder of prepared data sets; None is TFDS's default.
        manual_directory: folder of downloaded archives; None is TFDS's default.
    """

    corpus: Literal[
        "stdlib", "text_bytes", "text_characters", "text_words", "wikitext2", "wikitext103"
    ] = "stdlib"
    file: str | None = None
    order: Literal["shuffled", "streams"] = "shuffled"
    batch_size: Size = 32
    directory: str | None = None
    manual_directory: str | None = None


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunConfig):
    """A whole run of a language model.

    Attributes:
        model: which network is trained.
        data: what it is trained on.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)

    @property
    def solver(self) -> SolverSettings:
        """How the model's equilibrium is found."""
        return self.model.solver

    @property
    def solves(self) -> bool:
        """Whether the model is an equilibrium model."""
        return self.model.kind != "transformer_xl"

    @property
    def batch_size(self) -> int:
        """Rows per step, over all devices and processes."""
        return self.data.batch_size

    def of_model(self, model: nnx.Module) -> Self:
        """The configuration with the kind and the sizes of a model that was built elsewhere."""
        if not isinstance(model, DEQTransformerLM | TransformerXL):
            raise ConfigError(
                f"a run of text trains a language model, not a {type(model).__name__}; give a "
                "recipe of images."
            )
        own = dataclasses.replace(self.model, kind="deq_transformer", shape=model.shape)
        if isinstance(model, TransformerXL):
            own = dataclasses.replace(own, kind="transformer_xl", depth=len(model.layers))
        return dataclasses.replace(self, model=own)

    def check_combinations(self) -> None:
        """Raise a ConfigError for values that do not go together."""
        model, data = self.model, self.data
        if model.kind != "deq_trellisnet" and model.shape.width % model.shape.heads:
            raise ConfigError(
                f"--model.shape.width {model.shape.width} must be a multiple of "
                f"--model.shape.heads {model.shape.heads}."
            )
        if model.shape.memory_length and data.order != "streams":
            raise ConfigError(
                f"--model.shape.memory_length {model.shape.memory_length} needs --data.order "
                "streams: windows in random order have nothing before them to remember."
            )
        if data.corpus.startswith("text_") and data.file is None:
            raise ConfigError(f"--data.corpus {data.corpus} needs a text file: give --data.file.")
        if model.kind == "transformer_xl" and self.pretrain_steps:
            raise ConfigError(
                "--pretrain_steps warms up an equilibrium model; transformer_xl solves nothing."
            )
