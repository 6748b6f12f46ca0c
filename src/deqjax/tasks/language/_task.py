"""The task of predicting the next token of a text."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from flax import nnx
from jax.sharding import PartitionSpec

from deqjax.models import (
    DEQTransformerLM,
    DEQTrellisNetLM,
    LanguageModel,
    LanguageShape,
    SegmentMemory,
    TransformerXL,
)
from deqjax.tasks._network import refused_as
from deqjax.tasks.language._config import LanguageNetwork
from deqjax.tasks.language._sharding import rules
from deqjax.tasks.language._text_task import TextTask
from deqjax.training import ConfigError


@dataclasses.dataclass(frozen=True)
class LanguageTask(TextTask):
    """Predict the next token of a text; losses are in nats per token.

    With ``order="given"`` every row of a batch reads on where it stopped, so that a memory carries
    over; with "shuffled" windows are drawn at random. Scores stand beside those of a bigram model
    on the very same tokens, where there are at most 256 different ones.

    Attributes:
        network: which network is trained.
        text: what it is trained on.
        resumable: what may differ when a run goes on.
    """

    network: LanguageNetwork = dataclasses.field(default_factory=LanguageNetwork)

    def check(self) -> None:
        """Raise a ConfigError for fields that do not go together."""
        shape = self.network.shape
        if self.network.kind != "deq_trellisnet" and shape.width % shape.heads:
            raise ConfigError(
                f"--task.network.shape.width {shape.width} must be a multiple of "
                f"--task.network.shape.heads {shape.heads}."
            )
        super().check()

    @property
    def remembers(self) -> bool:
        """Whether the network has a memory."""
        return bool(self.network.shape.memory_length)

    @refused_as("--task.network")
    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The network, freshly initialized.

        Raises:
            ConfigError: sizes that do not go together.
        """
        network = self.network
        match network.kind:
            case "transformer_xl":
                return TransformerXL(network.shape, network.depth, rngs=rngs)
            case "deq_trellisnet":
                return DEQTrellisNetLM(network.shape, network.solver, rngs=rngs)
            case "deq_transformer":
                return DEQTransformerLM(network.shape, network.solver, rngs=rngs)

    def memory(self, model: LanguageModel, rows: int) -> SegmentMemory | None:
        """Empty, where the network has one."""
        return model.initial_memory(rows) if self.remembers else None

    def sharding(self) -> Mapping[str, PartitionSpec]:
        """The hidden features of feed-forwards, and the vocabulary."""
        return rules(self.network)

    def adopt(self, model: nnx.Module) -> Self:
        """The task with the kind and the sizes of a language model that was built elsewhere."""
        own = self.network
        match model:
            case DEQTransformerLM():
                own = dataclasses.replace(own, kind="deq_transformer", shape=model.shape)
            case TransformerXL():
                layers = len(model.layers)
                own = dataclasses.replace(
                    own, kind="transformer_xl", depth=layers, shape=model.shape
                )
            case DEQTrellisNetLM():
                # its shape may lack those of attention, for which it has no use
                names = (each.name for each in dataclasses.fields(LanguageShape))
                sizes: dict[str, Any] = {name: getattr(model.shape, name) for name in names}
                shape = dataclasses.replace(own.shape, **sizes)
                own = dataclasses.replace(own, kind="deq_trellisnet", shape=shape)
            case _:
                raise ConfigError(
                    "a LanguageTask trains DEQ-Transformers, TrellisNets and Transformer-XLs, not "
                    f"a {type(model).__name__}; give a recipe that trains such a model."
                )
        return dataclasses.replace(self, network=own)
