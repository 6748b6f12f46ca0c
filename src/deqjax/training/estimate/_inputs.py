"""What a training step works on, as shapes: a billion parameters take no memory here."""

from typing import Any, NamedTuple

import jax
import numpy as np

from deqjax.training._config import RunConfig
from deqjax.training._rehearsal import Layer, rehearse
from deqjax.training._run import assemble
from deqjax.training._task import Task
from deqjax.training._task_errors import of_task
from deqjax.training.batches import BatchOrder, Data
from deqjax.training.step import Batch, Problem, TrainState


class Inputs(NamedTuple):
    """A step's parts.

    Attributes:
        task: opened, if its data had to be read.
        problem: what is trained.
        state: shapes.
        batch: of all devices, on the host.
    """

    task: Task
    problem: Problem
    state: TrainState
    batch: Batch

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.weights.parameters))


def inputs_of(config: RunConfig, axis_name: str | None) -> Inputs:
    """The parts of a run's step; reads its data only where the task makes no example of them.

    Args:
        config: the run.
        axis_name: of the replicas, over which batch normalizations average.

    Raises:
        ConfigError, DataError, ExperimentError: sizes do not go together, data are needed and
            missing, or the task fails.
    """
    task = config.task
    rows = of_task(task, lambda: task.example(config.batch_size))
    if rows is None:
        task = of_task(config.task, lambda: config.task.opened(None))
        order = BatchOrder(config.batch_size, config.seed, config.order == "shuffled")
        pipeline = Data(task).split("train")
        batch = of_task(task, lambda: next(pipeline.train(order)))
    else:
        batch = Batch(rows, np.ones(config.batch_size, bool))
    made: list[Problem] = []

    def build() -> TrainState:
        problem, state = assemble(config, task, axis_name=axis_name)
        made.append(problem)
        return state

    state = jax.eval_shape(build)
    return Inputs(task, made[0], state, batch)


def layers_of(inputs: Inputs, share: int) -> tuple[Layer, ...]:
    """The solves of a step, followed on as many rows as one of so many devices has.

    Raises:
        ConfigError, ExperimentError: the task's loss cannot be trained on, or fails.
    """

    def own(leaf: Any) -> Any:
        return np.asarray(leaf)[: len(leaf) // share]

    def shape(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((leaf.shape[0] // share, *leaf.shape[1:]), leaf.dtype)

    batch: Batch = jax.tree.map(own, inputs.batch)
    memory = jax.tree.map(shape, inputs.state.memory)
    weights = inputs.state.weights
    return of_task(inputs.task, lambda: rehearse(inputs.problem, weights, batch, memory))
