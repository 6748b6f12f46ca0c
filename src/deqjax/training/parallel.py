"""Data parallelism: the one place that knows of devices and of the mapped axis."""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax

from deqjax.models import SegmentMemory
from deqjax.training.state import TrainState, Weights
from deqjax.training.step import (
    Metrics,
    Problem,
    SolveLimits,
    evaluate_step,
    radius_step,
    train_step,
)

AXIS = "devices"
Tree = TypeVar("Tree")


class ReplicaError(RuntimeError):
    """A state or a batch does not fit the devices, or was already given away."""


class DataParallel:
    """The steps of a problem, mapped over all local devices.

    Each device solves its own share of the batch and stops on its own: there are no collectives
    inside the solver loop, only the average of the gradient after it.

    Args:
        problem: what is trained.
        batch_size: rows per step on this host; a multiple of the number of devices.
        devices: local devices to use; None takes all.

    Raises:
        ReplicaError: the batch cannot be shared evenly.
    """

    def __init__(
        self, problem: Problem, batch_size: int, devices: Sequence[jax.Device] | None = None
    ) -> None:
        self.problem = problem
        devices = jax.local_devices() if devices is None else list(devices)
        self.devices = len(devices)
        if batch_size % self.devices:
            raise ReplicaError(
                f"--data.batch_size {batch_size} cannot be shared evenly by {self.devices} "
                f"devices; choose a multiple of {self.devices}."
            )
        mean = functools.partial(lax.pmean, axis_name=AXIS)

        def train(pretraining: bool, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
            index = lax.axis_index(AXIS)
            return train_step(problem, state, batch, index, mean, pretraining=pretraining)

        def evaluate(
            weights: Weights, batch: Any, memory: SegmentMemory | None, limits: SolveLimits
        ) -> tuple[Metrics, Metrics, SegmentMemory | None]:
            return evaluate_step(problem, weights, batch, memory, limits, mean)

        def radius(
            weights: Weights,
            batch: Any,
            memory: SegmentMemory | None,
            limits: SolveLimits,
            key: jax.Array,
        ) -> tuple[jax.Array, jax.Array]:
            return radius_step(problem, weights, batch, memory, limits, key)

        mapped = functools.partial(jax.pmap, axis_name=AXIS, devices=devices)
        self._train = mapped(functools.partial(train, False), donate_argnums=0)
        self._pretrain = mapped(functools.partial(train, True), donate_argnums=0)
        self._evaluate = mapped(evaluate, in_axes=(0, 0, 0, None))
        self._radius = mapped(radius, in_axes=(0, 0, 0, None, None))
        self._copy = mapped(lambda tree: tree)

    def train(
        self, state: TrainState, batch: Any, *, pretraining: bool = False
    ) -> tuple[TrainState, Metrics]:
        """One step; ``state`` is given away and must not be used again.

        Args:
            state: placed, leaves (devices, ...).
            batch: of all local devices, on the host.
            pretraining: whether the step belongs to the warm-up stage.

        Returns:
            The next placed state and replicated metrics, leaves (devices,).
        """
        self._check(state)
        step = self._pretrain if pretraining else self._train
        result: tuple[TrainState, Metrics] = step(state, self.share(batch))
        return result

    def evaluate(
        self, weights: Weights, batch: Any, memory: SegmentMemory | None, limits: SolveLimits
    ) -> tuple[Metrics, Metrics, SegmentMemory | None]:
        """Metrics of one batch and counts of each device, and the memory that it hands on.

        Their leaves are (devices, ...); metrics are the same for all devices.

        Args:
            weights: replicated.
            batch: on the host.
            memory: shared, leaves (devices, rows, ...), or None.
            limits: of the solves.
        """
        result: tuple[Metrics, Metrics, SegmentMemory | None] = self._evaluate(
            weights, self.share(batch), memory, limits
        )
        return result

    def radius(
        self,
        weights: Weights,
        batch: Any,
        memory: SegmentMemory | None,
        limits: SolveLimits,
        key: jax.Array,
    ) -> np.ndarray:
        """Spectral radius of each row that counts, (rows,) float32 on the host."""
        found = self._radius(weights, self.share(batch), memory, limits, key)
        radii, counted = (np.asarray(leaf).ravel() for leaf in found)
        result: np.ndarray = radii[counted]
        return result

    def place(self, state: TrainState) -> TrainState:
        """A state on the host, placed: copied to every device, its memory's rows shared out."""
        copies = self.replicate(state._replace(memory=None))
        if state.memory is None:
            return copies
        return copies._replace(memory=self._copy(self.share(state.memory)))

    def replicate(self, tree: Tree) -> Tree:
        """Copy a tree to every local device; leaves get a leading axis (devices, ...)."""
        copies: Tree = jax.tree.map(
            lambda x: jax.numpy.broadcast_to(x, (self.devices, *jax.numpy.shape(x))), tree
        )
        mapped: Tree = self._copy(copies)
        return mapped

    def share(self, tree: Tree) -> Tree:
        """Deal the rows of every leaf (rows, ...) out: (devices, rows / devices, ...).

        Raises:
            ReplicaError: the rows cannot be shared evenly.
        """

        def split(leaf: Any) -> Any:
            if leaf.shape[0] % self.devices:
                raise ReplicaError(
                    f"a batch of {leaf.shape[0]} cannot be shared evenly by {self.devices} devices."
                )
            rows = leaf.shape[0] // self.devices
            return leaf.reshape(self.devices, rows, *leaf.shape[1:])

        shared: Tree = jax.tree.map(split, tree)
        return shared

    def _check(self, state: TrainState) -> None:
        # JAX 0.10 crashes the process when a donated buffer is used again, and a leading axis of
        # another length would quietly run on fewer devices
        for leaf in jax.tree.leaves(state):
            if leaf.is_deleted():
                raise ReplicaError(
                    "this training state was given to an earlier step and is gone; go on with the "
                    "state that the step returned."
                )
            if leaf.shape[:1] != (self.devices,):
                raise ReplicaError(
                    f"a leaf of the training state has shape {leaf.shape}, but there are "
                    f"{self.devices} devices; replicate the state first."
                )


def on_host(state: TrainState) -> TrainState:
    """The inverse of :meth:`DataParallel.place`: one copy of the state, and all rows' memory."""
    rest = first_replica(state._replace(memory=None))
    return rest._replace(memory=jax.tree.map(_joined, state.memory))


def first_replica(tree: Tree) -> Tree:
    """One device's copy of a replicated tree, moved to the host; keys become unbound arrays."""
    copy: Tree = jax.tree.map(_fetch, tree)
    return copy


def _joined(leaf: jax.Array) -> np.ndarray:
    rows = leaf.shape[0] * leaf.shape[1]
    return np.asarray(leaf).reshape(rows, *leaf.shape[2:])


def _fetch(leaf: jax.Array) -> Any:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        # through the host: a key bound to some devices could not be placed on others
        data = np.asarray(jax.random.key_data(leaf))[0]
        return jax.random.wrap_key_data(jax.numpy.asarray(data), impl=jax.random.key_impl(leaf))
    # a shard's own data: indexing the whole array would first gather it
    return np.asarray(leaf.addressable_shards[0].data)[0]
