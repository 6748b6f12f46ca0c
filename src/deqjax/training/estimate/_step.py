"""The training step as a program for devices that need not be there, by its way of sharing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deqjax.training._config import RunConfig
from deqjax.training.devices import AXIS, ReplicaError, step_of_replica
from deqjax.training.estimate._inputs import Inputs, inputs_of
from deqjax.training.step import Control, Metrics, TrainState


class PlannedStep(NamedTuple):
    """A step, traced for all devices.

    Attributes:
        inputs: what it works on.
        traced: the step: ``jaxpr``, and ``lower().compile()``.
        share: devices that the rows of a batch are shared by.
        apart: devices whose arithmetic together is that of the traced program.
    """

    inputs: Inputs
    traced: Any
    share: int
    apart: int


def pmapped_step(config: RunConfig, devices: Sequence[Any]) -> PlannedStep:
    """The step as pmap runs it: the state whole on every device, the rows shared out.

    Raises:
        ReplicaError: the batch cannot be shared evenly.
        ConfigError, DataError, ExperimentError: as `inputs_of`.
    """
    count, parts = len(devices), config.micro_batches
    if config.batch_size % (count * parts):
        raise ReplicaError(
            f"--batch_size {config.batch_size} cannot be shared evenly by {count} devices in "
            f"{parts} part(s) each; choose a multiple of {count * parts}."
        )
    inputs = inputs_of(config, AXIS)
    mesh = Mesh(np.array(devices), (AXIS,))
    whole, rows = PartitionSpec(), PartitionSpec(AXIS)

    def step(
        state: TrainState, batch: Any, number: jax.Array
    ) -> tuple[TrainState, Metrics, Control]:
        return step_of_replica(inputs.problem, state, batch, number[0])

    def placed(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    state = placed(inputs.state._replace(memory=None), whole)
    state = state._replace(memory=placed(inputs.state.memory, rows))
    specs = jax.tree.map(lambda leaf: leaf.sharding.spec, state)
    # without checks, as in pmap
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, rows, rows),
        out_specs=(specs, whole, whole),
        check_vma=False,
    )
    numbers = jax.ShapeDtypeStruct((count,), jnp.int32)
    traced = jax.jit(mapped, donate_argnums=0).trace(
        state, placed(inputs.batch, rows), placed(numbers, rows)
    )
    return PlannedStep(inputs, traced, count, 1)
