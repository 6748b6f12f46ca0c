"""What a training run carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class Weights(NamedTuple):
    """What a trained model consists of.

    Attributes:
        parameters: the model's Param state.
        statistics: running statistics of its batch normalizations, None if it has none.
    """

    parameters: nnx.State[Any, Any]
    statistics: nnx.State[Any, Any] | None = None


class Skips(NamedTuple):
    """Updates that were left out because something in them was not finite.

    Attributes:
        total: () int32, since the run began.
        in_a_row: () int32, up to the last step.
    """

    total: jax.Array
    in_a_row: jax.Array


class TrainState(NamedTuple):
    """Everything that a step changes, and the key that its randomness derives from.

    Attributes:
        step: () int32, finished steps.
        weights: the model's parameters and statistics.
        optimizer: Optax's state.
        key: () typed PRNG key of the run; step k uses ``fold_in(key, k)``.
        memory: what the rows of the next batch remember, leaves (rows, ...); None for a model
            without memory.
        skips: updates left out.
        average: moving average of the weights, or None.
    """

    step: jax.Array
    weights: Weights
    optimizer: optax.OptState
    key: jax.Array
    memory: Any
    skips: Skips
    average: Weights | None = None

    @property
    def evaluated(self) -> Weights:
        """What is evaluated and used: the moving average if there is one."""
        return self.weights if self.average is None else self.average


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

    def build(self, weights: Weights, *, train: bool) -> Any:
        """The model; inside a transform it is a new one each time."""
        graph = self.training if train else self.evaluation
        states = [state for state in weights if state is not None]
        return nnx.merge(graph, *states, self.constants, copy=True)


def statistics_of(model: nnx.Module) -> nnx.State[Any, Any] | None:
    """The running statistics that a model holds now."""
    found = nnx.state(model, nnx.BatchStat)
    return found if jax.tree.leaves(found) else None


def split(model: nnx.Module, axis_name: str | None = None) -> tuple[Architecture, Weights]:
    """Take a model apart into its architecture and its weights.

    Args:
        model: freshly built or trained.
        axis_name: of the replicas over which batch normalizations average in training.
    """
    model.train()
    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.BatchNorm):
            node.axis_name = axis_name
    training: Any = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    model.eval()
    evaluation: Any = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    graph, parameters, statistics, constants = training
    weights = Weights(parameters, statistics if jax.tree.leaves(statistics) else None)
    return Architecture(graph, evaluation[0], constants), weights


def initial_state(
    weights: Weights,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    memory: Any = None,
    *,
    averages: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
        weights: of the model.
        optimizer: whose state it holds.
        key: of the run.
        memory: of the first batch's rows.
        averages: whether it holds a moving average of the weights.
    """
    moments = optimizer.init(weights.parameters)
    # a copy: a buffer that is in the state twice cannot be donated
    average = jax.tree.map(jnp.copy, weights) if averages else None
    skips = Skips(jnp.int32(0), jnp.int32(0))
    return TrainState(jnp.int32(0), weights, moments, key, memory, skips, average)
