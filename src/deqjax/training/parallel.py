"""Data parallelism: the one place that knows of devices and of the mapped axis."""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax

from deqjax.training.state import TrainState
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
        batch_size: windows per step on this host; a multiple of the number of devices.
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

        def train(state: TrainState, windows: jax.Array) -> tuple[TrainState, Metrics]:
            return train_step(problem, state, windows, lax.axis_index(AXIS), mean)

        def evaluate(parameters: Any, windows: jax.Array, limits: SolveLimits) -> Metrics:
            return evaluate_step(problem, parameters, windows, limits, mean)

        def radius(
            parameters: Any, windows: jax.Array, limits: SolveLimits, key: jax.Array
        ) -> jax.Array:
            return radius_step(problem, parameters, windows, limits, key)

        self._train = jax.pmap(train, AXIS, devices=devices, donate_argnums=0)
        self._evaluate = jax.pmap(evaluate, AXIS, devices=devices, in_axes=(0, 0, None))
        self._radius = jax.pmap(radius, AXIS, devices=devices, in_axes=(0, 0, None, None))
        self._copy = jax.pmap(lambda tree: tree, AXIS, devices=devices)

    def train(self, state: TrainState, windows: np.ndarray) -> tuple[TrainState, Metrics]:
        """One step; ``state`` is given away and must not be used again.

        Args:
            state: replicated, leaves (devices, ...).
            windows: (batch, length + 1) int32 on the host.

        Returns:
            The next replicated state and replicated metrics, leaves (devices,).
        """
        self._check(state)
        result: tuple[TrainState, Metrics] = self._train(state, self._share(windows))
        return result

    def evaluate(self, parameters: Any, windows: np.ndarray, limits: SolveLimits) -> Metrics:
        """Metrics of one batch, replicated; leaves (devices,)."""
        metrics: Metrics = self._evaluate(parameters, self._share(windows), limits)
        return metrics

    def radius(
        self, parameters: Any, windows: np.ndarray, limits: SolveLimits, key: jax.Array
    ) -> np.ndarray:
        """Spectral radius per window, (batch,) float32 on the host."""
        return np.asarray(self._radius(parameters, self._share(windows), limits, key)).ravel()

    def replicate(self, tree: Tree) -> Tree:
        """Copy a tree to every local device; leaves get a leading axis (devices, ...)."""
        copies: Tree = jax.tree.map(
            lambda x: jax.numpy.broadcast_to(x, (self.devices, *jax.numpy.shape(x))), tree
        )
        mapped: Tree = self._copy(copies)
        return mapped

    def _share(self, windows: np.ndarray) -> np.ndarray:
        if windows.shape[0] % self.devices:
            raise ReplicaError(
                f"a batch of {windows.shape[0]} cannot be shared evenly by {self.devices} devices."
            )
        return windows.reshape(self.devices, -1, *windows.shape[1:])

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


def first_replica(tree: Tree) -> Tree:
    """One device's copy of a replicated tree, moved to the host; keys stay on their device."""
    copy: Tree = jax.tree.map(_fetch, tree)
    return copy


def _fetch(leaf: jax.Array) -> Any:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf[0]
    # a shard's own data: indexing the whole array would first gather it
    return np.asarray(leaf.addressable_shards[0].data)[0]
