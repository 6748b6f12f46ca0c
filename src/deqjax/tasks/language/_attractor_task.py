"""The task of predicting the next token of a text by an attractor language model."""

import dataclasses
from collections.abc import Mapping
from typing import Self

from flax import nnx
from jax.sharding import PartitionSpec

from deqjax._ranges import NotNegative
from deqjax.models import AttractorLM
from deqjax.tasks._network import refused_as
from deqjax.tasks.language._config import AttractorNetwork
from deqjax.tasks.language._text_task import TextTask
from deqjax.training import ConfigError

_COLUMNS, _ROWS = PartitionSpec(None, "model"), PartitionSpec("model")


@dataclasses.dataclass(frozen=True)
class AttractorTask(TextTask):
    """Predict the next token of a text by a Transformer whose head is solved for its fixed point.

    Rows are windows that stand alone. Losses are in nats per token, scores stand beside those of a
    bigram model on the very same tokens, where there are at most 256 different ones.

    Attributes:
        network: which network is trained.
        text: what it is trained on.
        head_rate: learning rate of the head, as a factor on that of all else; published is 0.5.
        resumable: what may differ when a run goes on.
    """

    network: AttractorNetwork = dataclasses.field(default_factory=AttractorNetwork)
    head_rate: NotNegative = 1.0

    def check(self) -> None:
        """Raise a ConfigError for fields that do not go together."""
        with refused_as("--task.network.shape"):
            self.network.shape.check()
        super().check()

    @refused_as("--task.network")
    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The network, freshly initialized.

        Raises:
            ConfigError: sizes that do not go together.
        """
        return AttractorLM(self.network.shape, self.network.solver, rngs=rngs)

    def rates(self) -> Mapping[str, float]:
        """Of the head."""
        return {"deq.*": self.head_rate} if self.network.solves else {}

    def sharding(self) -> Mapping[str, PartitionSpec]:
        """The hidden features of feed-forwards, and the vocabulary."""
        shape = self.network.shape
        rules = {"embedding": _ROWS}
        if not shape.tie_embeddings:
            rules |= {"softmax": _ROWS}
        for name in ("up", "gate") if shape.gated else ("up",):
            rules |= {f"*.{name}.weight.kernel": _COLUMNS}
            if shape.bias:
                rules |= {f"*.{name}.bias": _ROWS}
        return rules | {"*.down.weight.kernel": _ROWS, "*": PartitionSpec()}

    def adopt(self, model: nnx.Module) -> Self:
        """The task with the sizes of an attractor model that was built elsewhere.

        Precision, and what is computed again on the way back, are the task's own.
        """
        if not isinstance(model, AttractorLM):
            raise ConfigError(
                f"an AttractorTask trains attractor language models, not a {type(model).__name__}; "
                "give a recipe that trains such a model."
            )
        own = self.network.shape
        shape = dataclasses.replace(model.shape, dtype=own.dtype, recompute=own.recompute)
        network = dataclasses.replace(self.network, shape=shape)
        return dataclasses.replace(self, network=network)
