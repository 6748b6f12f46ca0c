"""The training step as a program for devices that need not be there, by its way of sharing."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deqjax.training._config import RunConfig
from deqjax.training._task_errors import of_task
from deqjax.training.devices import AXIS, ReplicaError, ShardedSteps, mesh_of
from deqjax.training.estimate._inputs import Inputs, inputs_of
from deqjax.training.step import Control, Metrics, Replicas, TrainState, train_step


class PlannedStep(NamedTuple):
    """A step, traced for all devices.

    Attributes:
        inputs: what it works on.
        traced: the step: ``jaxpr``, and ``lower().compile()``.
        share: devices, or groups of them, that the rows of a batch are shared by.
    """

    inputs: Inputs
    traced: Any
    share: int


def planned_step(config: RunConfig, devices: Sequence[Any]) -> PlannedStep:
    """The step as the run's way of sharing has it.

    Raises:
        ReplicaError: the batch cannot be shared evenly, or the devices cannot be grouped so.
        ConfigError, DataError, ExperimentError: as `inputs_of`.
    """
    sharded = config.parallel == "sharded"
    group = config.model_devices if sharded else 1
    if sharded:
        mesh_of(devices, group)  # which refuses groups that training would
    shares, parts = len(devices) // group, config.micro_batches
    if shares and config.batch_size % (shares * parts):
        raise ReplicaError(
            f"--batch_size {config.batch_size} cannot be shared evenly by {shares} "
            f"{'devices' if group == 1 else f'groups of {group} devices'} in {parts} part(s) each; "
            f"choose a multiple of {shares * parts}."
        )
    build = _sharded if sharded else _pmapped
    return build(config, devices)


def _pmapped(config: RunConfig, devices: Sequence[Any]) -> PlannedStep:
    """As pmap runs it: the state whole on every device, the rows shared out."""
    inputs = inputs_of(config, AXIS)
    mesh = Mesh(np.array(devices), (AXIS,))
    whole, rows = PartitionSpec(), PartitionSpec(AXIS)

    def step(
        state: TrainState, batch: Any, number: jax.Array
    ) -> tuple[TrainState, Metrics, Control]:
        own = Replicas(
            number[0],
            mean=functools.partial(lax.pmean, axis_name=AXIS),
            total=functools.partial(lax.psum, axis_name=AXIS),
            largest=functools.partial(lax.pmax, axis_name=AXIS),
        )
        return train_step(inputs.problem, state, batch, own)

    def placed(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    state = placed(inputs.state._replace(memory=None), whole)
    state = state._replace(memory=placed(inputs.state.memory, rows))
    specs = jax.tree.map(lambda leaf: leaf.sharding.spec, state)
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, rows, rows),
        out_specs=(specs, whole, whole),
        check_vma=False,  # as in pmap
    )
    numbers = jax.ShapeDtypeStruct((len(devices),), jnp.int32)
    traced = jax.jit(mapped, donate_argnums=0).trace(
        state, placed(inputs.batch, rows), placed(numbers, rows)
    )
    return PlannedStep(inputs, traced, len(devices))


def _sharded(config: RunConfig, devices: Sequence[Any]) -> PlannedStep:
    """As a mesh runs it: the state divided, too."""
    mesh = mesh_of(devices, config.model_devices)
    inputs = inputs_of(config, AXIS)
    rules = of_task(inputs.task, inputs.task.sharding)
    steps = ShardedSteps(inputs.problem, mesh, inputs.state, rules)
    share = mesh.shape[AXIS]
    number = jax.ShapeDtypeStruct((share,), jnp.int32)
    traced = steps.train.trace(inputs.state, inputs.batch, number, number)
    return PlannedStep(inputs, traced, share)
