"""Sharded training: the state is divided among the devices of a mesh."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from deqjax.training.devices._division import Rules
from deqjax.training.devices._engine import AXIS, ReplicaError
from deqjax.training.devices._sharded_steps import ShardedSteps, mesh_of
from deqjax.training.step import (
    Control,
    Metrics,
    Problem,
    SolveLimits,
    TrainState,
    Weights,
)


class ShardedParallel:
    """The steps of a problem on a mesh: each device holds a part of the state.

    Rows go to the devices, and random numbers to rows, as `DataParallel` on as many devices as the
    axis "data" has deals them out; devices that share a row's work draw the same.

    Args:
        problem: what is trained.
        batch_size: rows per step of this process; a multiple of its devices over ``model_devices``.
        state: before the first step; shapes suffice.
        model_devices: neighbouring devices that share a row's work.
        rules: how parameters are divided; see `deqjax.training.devices.Rules`.
        devices: local devices to use; None takes all, and those of the other processes.

    Attributes:
        problem: what is trained.
        devices: number of this process's devices.
        shares: parts that this process's rows are dealt out in.
        steps: the programs.

    Raises:
        ReplicaError: the batch cannot be shared evenly, the devices cannot be grouped so, or a rule
            does not fit.
    """

    def __init__(
        self,
        problem: Problem,
        batch_size: int,
        state: TrainState,
        *,
        model_devices: int = 1,
        rules: Rules | None = None,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        self.problem = problem
        self.devices = jax.local_device_count() if devices is None else len(devices)
        processes = jax.process_count() if devices is None else 1
        self._process = jax.process_index() if devices is None else 0
        mesh = mesh_of(jax.devices() if devices is None else devices, model_devices)
        self.shares = self.devices // model_devices
        if batch_size % (self.shares * problem.micro_batches):
            parts = self.shares * processes * problem.micro_batches
            raise ReplicaError(
                f"--batch_size {batch_size * processes} cannot be shared evenly by "
                f"{self.shares * processes} group(s) of {model_devices} device(s) in "
                f"{problem.micro_batches} part(s) each; choose a multiple of {parts}."
            )
        self._processes = processes
        self.steps = ShardedSteps(problem, mesh, state, rules)
        # of each group along "data": its process, and the how manieth of that it is
        owners = [device.process_index if devices is None else 0 for device in mesh.devices[:, 0]]
        self._ranks = [owners[:place].count(owner) for place, owner in enumerate(owners)]
        # which share of each batch's rows it sees, as `DataParallel.numbers`
        self._numbers = np.asarray(owners, np.int32) + processes * np.asarray(self._ranks, np.int32)
        self._rows = self.steps.sharding(PartitionSpec(AXIS))
        self._number = self._put(self._numbers, self._rows)

    def train(
        self, state: TrainState, batch: Any, *, stop: int = 0, pretraining: bool = False
    ) -> tuple[TrainState, Metrics, Control]:
        """One step; see `Parallel.train`."""
        self._check(state)
        step = self.steps.pretrain if pretraining else self.steps.train
        # each process fills in what its own devices hear
        asked = self._put(np.full(len(self._numbers), stop, np.int32), self._rows)
        result: tuple[TrainState, Metrics, Control] = step(
            state, self.share(batch), self._number, asked
        )
        return result

    def evaluate(
        self, weights: Weights, batch: Any, memory: Any, limits: SolveLimits
    ) -> tuple[Metrics, Metrics, Any]:
        """Metrics, counts and memory of one batch; see `Parallel.evaluate`."""
        result: tuple[Metrics, Metrics, Any] = self.steps.evaluate(
            weights, self.share(batch), memory, limits
        )
        return result

    def radius(
        self, weights: Weights, batch: Any, memory: Any, limits: SolveLimits, key: jax.Array
    ) -> np.ndarray:
        """Spectral radius of each row that counts; see `Parallel.radius`."""
        found = self.steps.radius(weights, self.share(batch), memory, limits, key)
        radii, counted = (np.asarray(leaf.addressable_shards[0].data) for leaf in found)
        result: np.ndarray = radii[counted]
        return result

    def differing(self, state: TrainState) -> int:
        """How many numbers that devices hold copies of differ; see `Parallel.differing`."""
        if len(self.steps.mesh.devices.flat) == 1:
            return 0
        return int(self.steps.count_differing(state._replace(memory=None)))

    def on_host(self, state: TrainState) -> TrainState:
        """The whole state once; one array after the other, so that the devices need not hold it."""
        rest = jax.tree.map(self._fetch, state._replace(memory=None))

        def in_order(leaf: jax.Array) -> np.ndarray:
            """Rows dealt out, back in their order."""
            dealt = self._fetch(leaf).reshape(len(self._numbers), -1, *leaf.shape[1:])
            order = np.argsort(self._numbers)
            result: np.ndarray = np.swapaxes(dealt[order], 0, 1).reshape(leaf.shape)
            return result

        whole: TrainState = rest._replace(memory=jax.tree.map(in_order, state.memory))
        return whole

    def place(self, state: TrainState) -> TrainState:
        """A state on the host, divided; its memory's rows shared out."""
        rest = state._replace(memory=None)
        wanted = self.steps.shardings._replace(memory=None)
        placed: TrainState = jax.tree.map(self._put, rest, wanted)
        if state.memory is None:
            return placed
        own = jax.tree.map(lambda leaf: leaf[self._process :: self._processes], state.memory)
        return placed._replace(memory=self.share(own))

    def place_weights(self, weights: Weights) -> Weights:
        """Weights on the host, divided."""
        placed: Weights = jax.tree.map(self._put, weights, self.steps.shardings.weights)
        return placed

    def share(self, tree: Any) -> Any:
        """Deal the rows of every leaf (rows, ...) out in turn, each to its device.

        Raises:
            ReplicaError: the rows cannot be shared evenly.
        """

        def split(leaf: Any) -> jax.Array:
            leaf = np.asarray(leaf)
            if leaf.shape[0] % self.shares:
                raise ReplicaError(
                    f"a batch of {leaf.shape[0]} cannot be shared evenly by {self.shares} groups "
                    "of devices."
                )
            each = leaf.shape[0] // self.shares

            def part(index: Any) -> np.ndarray:
                # asked for this process's groups alone
                rank = self._ranks[(index[0].start or 0) // max(each, 1)]
                rows: np.ndarray = leaf[rank :: self.shares]
                return rows

            shape = (each * len(self._numbers), *leaf.shape[1:])
            return jax.make_array_from_callback(shape, self._rows, part)

        return jax.tree.map(split, tree)

    def _check(self, state: TrainState) -> None:
        # JAX 0.10 crashes the process when a donated buffer is used again
        count = len(self.steps.mesh.devices.flat)
        for leaf in jax.tree.leaves(state):
            if leaf.is_deleted():
                raise ReplicaError(
                    "this training state was given to an earlier step and is gone; go on with the "
                    "state that the step returned."
                )
            if len(leaf.sharding.device_set) != count:
                raise ReplicaError(
                    f"a leaf of the training state of shape {leaf.shape} is on "
                    f"{len(leaf.sharding.device_set)} device(s) of {count}; place the state first."
                )

    def _put(self, leaf: Any, sharding: NamedSharding) -> jax.Array:
        """An array that every process has, on the devices: each gets its own part only."""
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = self._put(np.asarray(jax.random.key_data(leaf)), sharding)
            key: jax.Array = jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
            return key
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    def _fetch(self, leaf: jax.Array) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = self._fetch(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(leaf))
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)
