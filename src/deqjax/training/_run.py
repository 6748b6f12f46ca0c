"""From a run's configuration to its parts."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from deqjax._core.summary import table
from deqjax.training._config import RunConfig
from deqjax.training._options import ConfigError
from deqjax.training._rehearsal import Layer, rehearse
from deqjax.training._task import Task
from deqjax.training._task_errors import of_task
from deqjax.training.batches import BatchOrder, Data, TrainingBatches
from deqjax.training.devices import AXIS, DataParallel, Parallel, ShardedParallel
from deqjax.training.step import (
    Batch,
    Loss,
    Problem,
    TrainState,
    by_rates,
    initial_state,
    learning_rate,
    optimizer,
    split,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts that a configuration builds; data are opened when they are first asked for.

    Attributes:
        config: the run.
        task: the configuration's, opened.
        data: its splits.
        steps: on the devices.
        state: before the first step or restored, on the host: the devices have room for one only.
    """

    config: RunConfig
    task: Task
    data: Data
    steps: Parallel
    state: TrainState

    @property
    def model(self) -> Any:
        """The model with the weights that are evaluated and used, dropout off; one anew each time.

        A Flax NNX module to call, jit and inspect; [`deqjax.nn.observe`][] shows what it solves.
        """
        weights = jax.device_put(self.state.evaluated)
        return self.steps.problem.architecture.build(weights, train=False)

    @functools.cached_property
    def order(self) -> BatchOrder:
        """How this process's training batches are made."""
        config = self.config
        return BatchOrder(
            config.batch_size,
            config.seed,
            config.order == "shuffled",
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=config.threads,
            workers=config.workers,
        )

    @functools.cached_property
    def batches(self) -> TrainingBatches:
        """This process's training batches, endless and resumable."""
        return TrainingBatches(self.data.split("train").train(self.order))

    @functools.cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """What the training batches depend on, as JSON values."""
        return self.data.split("train").fingerprint(self.order)

    def layers(self, batch: Batch, *, train: bool = True) -> tuple[Layer, ...]:
        """The solves of the model in a pass over a batch; computes nothing.

        Args:
            batch: on the host, of all devices of this process.
            train: whether the pass is one of training, or one of an evaluation.

        Raises:
            ConfigError, ExperimentError: the task's loss cannot be trained on, or fails.
        """
        rows = len(batch.counted) // self.steps.shares
        own: Batch = jax.tree.map(lambda leaf: np.asarray(leaf)[:rows], batch)
        shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(own)]
        form = str((jax.tree.structure(own), shapes, train))
        if form not in self._known_layers:
            problem, weights, memory = self.steps.problem, self.state.weights, self.memory(rows)
            found = of_task(self.task, lambda: rehearse(problem, weights, own, memory, train=train))
            self._known_layers[form] = found
        return self._known_layers[form]

    def memory(self, rows: int) -> Any:
        """What the rows of a first batch remember, leaves (rows, ...), or None."""
        model = self.steps.problem.architecture.build(self.state.weights, train=False)
        return of_task(self.task, lambda: self.task.memory(model, rows))

    @functools.cached_property
    def _known_layers(self) -> dict[str, tuple[Layer, ...]]:
        return {}

    def _rows(self) -> dict[str, str]:
        # statistics of batches are no parameters, but live with them
        weights = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.state.weights))
        devices = self.steps.devices
        return {
            "run": f"{self.config.name} ({type(self.config.task).__name__})",
            "step": f"{int(self.state.step)} of {self.config.steps}",
            "weights": f"{weights:,} numbers",
            "devices": f"{devices} of this process",
        }

    def __repr__(self) -> str:
        return f"Run({'; '.join(f'{name}: {text}' for name, text in self._rows().items())})"

    def _repr_html_(self) -> str:
        return table(self._rows())


def build(
    config: RunConfig,
    devices: Sequence[jax.Device] | None = None,
    *,
    kept: Mapping[str, Any] | None = None,
) -> Run:
    """Make a run's parts, its state before the first step among them.

    Args:
        config: the run.
        devices: local devices to use; None takes all, and those of the other processes.
        kept: what the task has kept of a run that goes on, or is used.

    Raises:
        DataError, ConfigError, ReplicaError, ExperimentError: data are missing or damaged, sizes do
            not go together, a batch cannot be shared, or the task fails.
    """
    task = of_task(config.task, lambda: config.task.opened(kept))
    # a state that is to be divided may be larger than one device
    sharded = config.parallel == "sharded"
    with jax.default_device(_host()) if sharded else contextlib.nullcontext():
        problem, state = assemble(config, task, axis_name=AXIS)
    steps = _parallel(config, task, problem, state, devices)
    return Run(config, task, Data(task), steps, jax.tree.map(_on_host, state))


def _parallel(
    config: RunConfig,
    task: Task,
    problem: Problem,
    state: TrainState,
    devices: Sequence[jax.Device] | None,
) -> Parallel:
    rows = config.batch_size // jax.process_count()
    match config.parallel:
        case "pmap":
            return DataParallel(problem, rows, devices)
        case "sharded":
            rules = of_task(task, task.sharding)
            return ShardedParallel(
                problem,
                rows,
                state,
                model_devices=config.model_devices,
                rules=rules,
                devices=devices,
            )


def assemble(
    config: RunConfig, task: Task, *, axis_name: str | None = None
) -> tuple[Problem, TrainState]:
    """The problem that a configuration poses and the state before the first step; needs no data.

    Args:
        config: the run.
        task: its task, opened.
        axis_name: of the replicas, over which batch normalizations average.

    Raises:
        ConfigError: sizes do not go together.
        ExperimentError: the task fails.
    """
    model = of_task(task, lambda: task.model(nnx.Rngs(config.seed)))
    if not isinstance(model, nnx.Module):
        raise ConfigError(
            f"model() of {type(task).__name__} returns a {type(model).__name__}, not a Flax NNX "
            "module; bring a Linen module in with flax.nnx.bridge.ToNNX."
        )
    memory = of_task(task, lambda: task.memory(model, config.batch_size))
    architecture, weights = split(model, axis_name)
    update, schedule = _update(config, task)
    problem = Problem(
        architecture,
        functools.partial(_loss, task),
        update,
        schedule,
        config.penalty,
        step_limit=config.step_limit,
        pretrain_steps=config.pretrain_steps,
        pretrain_layers=config.pretrain_layers,
        micro_batches=config.micro_batches,
        average_decay=config.average_decay,
    )
    averages = config.average_decay > 0
    key = jax.random.key(config.seed)
    return problem, initial_state(weights, update, key, memory, averages=averages)


def _loss(task: Task, model: Any, rows: Any, memory: Any) -> Loss:
    given = (rows,) if memory is None else (rows, memory)
    return task.loss(model, *given)


def _update(
    config: RunConfig, task: Task
) -> tuple[optax.GradientTransformation, optax.Schedule | None]:
    own = of_task(task, lambda: task.optimizer(config.steps))
    rates = of_task(task, task.rates)
    if own is not None:
        return by_rates(own, rates), None
    schedule = learning_rate(config.optimizer, config.steps)
    return by_rates(optimizer(config.optimizer, config.steps), rates), schedule


def _host() -> jax.Device | None:
    """The CPU, where JAX has it beside accelerators."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _on_host(leaf: jax.Array) -> Any:
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)
