"""What a training run carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from deqjax.models import SegmentMemory


class TrainState(NamedTuple):
    """Everything that a step changes, and the key that its randomness derives from.

    Attributes:
        step: () int32, finished steps.
        parameters: the model's Param state.
        optimizer: Optax's state.
        key: () typed PRNG key of the run; step k uses ``fold_in(key, k)``.
        memory: what the rows of the next batch remember, leaves (rows, ...); None for a model
            without memory.
    """

    step: jax.Array
    parameters: nnx.State[Any, Any]
    optimizer: optax.OptState
    key: jax.Array
    memory: SegmentMemory | None


class Architecture(NamedTuple):
    """A model without its parameters.

    Attributes:
        training: NNX graph with dropout on.
        evaluation: NNX graph with dropout off.
        constants: the state that is no parameter (random streams).
    """

    training: nnx.GraphDef[Any]
    evaluation: nnx.GraphDef[Any]
    constants: nnx.State[Any, Any]

    def build(self, parameters: nnx.State[Any, Any], *, train: bool) -> Any:
        """The model; inside a transform it is a new one each time."""
        graph = self.training if train else self.evaluation
        return nnx.merge(graph, parameters, self.constants, copy=True)


def split(model: nnx.Module) -> tuple[Architecture, nnx.State[Any, Any]]:
    """Take a model apart into its architecture and its parameters."""
    model.train()
    training: Any = nnx.split(model, nnx.Param, ...)
    model.eval()
    evaluation: Any = nnx.split(model, nnx.Param, ...)
    graph, parameters, constants = training
    return Architecture(graph, evaluation[0], constants), parameters


def initial_state(
    parameters: nnx.State[Any, Any],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    memory: SegmentMemory | None = None,
) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.int32(0), parameters, optimizer.init(parameters), key, memory)
