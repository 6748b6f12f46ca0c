"""From a configuration to the parts of a run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deqjax._core.summary import table
from deqjax.models import SegmentMemory
from deqjax.training import _language, _vision
from deqjax.training._config import RunConfig
from deqjax.training._language_config import TrainConfig
from deqjax.training._task import Task
from deqjax.training._vision_config import VisionConfig
from deqjax.training.devices import AXIS, DataParallel
from deqjax.training.step import (
    ForwardPass,
    Problem,
    TrainState,
    initial_state,
    learning_rate,
    optimizer,
    split,
)


class Run(NamedTuple):
    """The parts that a configuration builds.

    Attributes:
        config: the run.
        steps: mapped over the devices.
        task: its data.
        state: before the first step or restored, on the host: the devices have room for one only.
    """

    config: RunConfig
    steps: DataParallel
    task: Task
    state: TrainState

    @property
    def model(self) -> Any:
        """The model with the weights that are evaluated and used, dropout off; one anew each time.

        A Flax NNX module to call, jit and inspect: what an equilibrium model returns holds its
        equilibria with f, u and the solution of each.
        """
        weights = jax.device_put(self.state.evaluated)
        return self.steps.problem.architecture.build(weights, train=False)

    def _rows(self) -> dict[str, str]:
        # statistics of batches are no parameters, but live with them
        weights = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.state.weights))
        devices = self.steps.devices
        return {
            "run": f"{self.config.name} ({type(self.config).__name__})",
            "step": f"{int(self.state.step)} of {self.config.steps}",
            "weights": f"{weights:,} numbers",
            "devices": f"{devices} of this process",
        }

    def __repr__(self) -> str:
        return f"Run({'; '.join(f'{name}: {text}' for name, text in self._rows().items())})"

    def _repr_html_(self) -> str:
        return table(self._rows())


def build(config: RunConfig, devices: Sequence[jax.Device] | None = None) -> Run:
    """Make a run's parts, its state before the first step among them.

    Args:
        config: the run.
        devices: local devices to use; None takes all, and those of the other processes.
    """
    task = open_task(config)
    problem, state = assemble(config, config.batch_size, axis_name=AXIS)
    rows = config.batch_size // jax.process_count()
    return Run(config, DataParallel(problem, rows, devices), task, jax.tree.map(_on_host, state))


def open_task(config: RunConfig) -> Task:
    """The data of a run, prepared on first use.

    Raises:
        DataError, ConfigError: they are missing or damaged, or do not go with the model.
    """
    match config:
        case TrainConfig():
            return _language.LanguageTask(config)
        case VisionConfig():
            return _vision.VisionTask(config)
    raise TypeError(f"there is no task for a {type(config).__name__}.")


def assemble(
    config: RunConfig, rows: int, *, axis_name: str | None = None
) -> tuple[Problem, TrainState]:
    """The problem that a configuration poses and the state before the first step; needs no data.

    Args:
        config: the run.
        rows: of each batch over all processes, for the model's memory.
        axis_name: of the replicas, over which batch normalizations average.
    """
    parts = _parts(config, rows)
    architecture, weights = split(parts.model, axis_name)
    update = optimizer(config.optimizer, config.steps)
    problem = Problem(
        architecture,
        parts.forward,
        parts.targets,
        parts.stages,
        update,
        learning_rate(config.optimizer, config.steps),
        config.penalty,
        max_steps=config.solver.max_steps if config.solves else None,
        step_limit=config.step_limit,
        pretrain_steps=config.pretrain_steps,
        pretrain_layers=config.pretrain_layers,
        micro_batches=config.micro_batches,
        average_decay=config.average_decay,
    )
    averages = config.average_decay > 0
    key = jax.random.key(config.seed)
    return problem, initial_state(weights, update, key, parts.memory, averages=averages)


def _on_host(leaf: jax.Array) -> Any:
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)


class _Parts(NamedTuple):
    """The model, what it makes of batches, its equilibrium layers, and its first memory."""

    model: nnx.Module
    forward: ForwardPass
    targets: Callable[[Any], jax.Array]
    stages: int
    memory: SegmentMemory | None


def _parts(config: RunConfig, rows: int) -> _Parts:
    match config:
        case TrainConfig():
            reader = _language.build_model(config.model, config.seed)
            memory = reader.initial_memory(rows) if config.model.shape.memory_length else None
            stages = int(config.solves)
            return _Parts(reader, _language.forward, _language.targets, stages, memory)
        case VisionConfig():
            viewer = _vision.build_model(config.model, config.seed)
            return _Parts(viewer, _vision.forward, _vision.targets, viewer.stages, None)
    raise TypeError(f"there is no model for a {type(config).__name__}.")
