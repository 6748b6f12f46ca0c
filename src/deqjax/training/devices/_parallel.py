"""Data parallelism by pmap: a copy of the state on every device."""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deqjax.training.devices._copies import count_differing, first_replica
from deqjax.training.devices._engine import AXIS, ReplicaError
from deqjax.training.step import (
    Control,
    Metrics,
    Problem,
    Replicas,
    SolveLimits,
    TrainState,
    Weights,
    evaluate_step,
    radius_step,
    train_step,
)

_REDUCTIONS = Replicas(
    0,
    mean=functools.partial(lax.pmean, axis_name=AXIS),
    total=functools.partial(lax.psum, axis_name=AXIS),
    largest=functools.partial(lax.pmax, axis_name=AXIS),
)
Tree = TypeVar("Tree")


class DataParallel:
    """The steps of a problem, mapped over all devices of all processes.

    Each device solves its own share of the batch and stops on its own: there are no collectives
    inside the solver loop, only the average of the gradient after it. Of the rows of a batch each
    process has every so manieth (its data are dealt out that way), and of these each of its devices
    again every so manieth: a row is seen by a device with the same number, hence with the same
    random numbers, however many processes share the devices.

    Args:
        problem: what is trained.
        batch_size: rows per step of this process; a multiple of the number of its devices.
        devices: local devices to use; None takes all, and those of the other processes.

    Attributes:
        problem: what is trained.
        devices: number of this process's devices.
        shares: the same; each device has rows of its own.

    Raises:
        ReplicaError: the batch cannot be shared evenly.
    """

    def __init__(
        self, problem: Problem, batch_size: int, devices: Sequence[jax.Device] | None = None
    ) -> None:
        self.problem = problem
        self.devices = jax.local_device_count() if devices is None else len(devices)
        self.shares = self.devices
        self._processes = jax.process_count() if devices is None else 1
        self._process = jax.process_index() if devices is None else 0
        if batch_size % (self.devices * problem.micro_batches):
            parts = self.devices * self._processes * problem.micro_batches
            raise ReplicaError(
                f"--batch_size {batch_size * self._processes} cannot be shared evenly by "
                f"{self.devices * self._processes} devices in {problem.micro_batches} part(s) "
                f"each; choose a multiple of {parts}."
            )

        def train(
            pretraining: bool, state: TrainState, batch: Any, number: jax.Array, stop: jax.Array
        ) -> tuple[TrainState, Metrics, Control]:
            own = _REDUCTIONS._replace(number=number)
            return train_step(problem, state, batch, own, stop=stop, pretraining=pretraining)

        def evaluate(
            weights: Weights, batch: Any, memory: Any, limits: SolveLimits
        ) -> tuple[Metrics, Metrics, Any]:
            return evaluate_step(problem, weights, batch, memory, limits, _REDUCTIONS)

        def radius(
            weights: Weights,
            batch: Any,
            memory: Any,
            limits: SolveLimits,
            key: jax.Array,
        ) -> tuple[jax.Array, jax.Array]:
            return _gathered(radius_step(problem, weights, batch, memory, limits, key))

        mapped = functools.partial(jax.pmap, axis_name=AXIS, devices=devices)
        self._train = mapped(functools.partial(train, False), donate_argnums=0)
        self._pretrain = mapped(functools.partial(train, True), donate_argnums=0)
        self._evaluate = mapped(evaluate, in_axes=(0, 0, 0, None))
        self._radius = mapped(radius, in_axes=(0, 0, 0, None, None))
        self._copy = mapped(lambda tree: tree)
        self._replicate = mapped(lambda tree, number: tree, in_axes=(None, 0))
        self._gather = mapped(_gathered)
        self._count = mapped(_count_differing)

    @property
    def numbers(self) -> np.ndarray:
        """(devices,) int32, which share of each batch's rows this process's devices see."""
        own = self._process + self._processes * np.arange(self.devices)
        result: np.ndarray = own.astype(np.int32)
        return result

    def train(
        self, state: TrainState, batch: Any, *, stop: int = 0, pretraining: bool = False
    ) -> tuple[TrainState, Metrics, Control]:
        """One step; ``state`` is given away and must not be used again.

        Args:
            state: placed, leaves (devices, ...).
            batch: of all local devices, on the host.
            stop: number of the signal that asked this process to stop, or 0.
            pretraining: whether the step belongs to the warm-up stage.

        Returns:
            The next placed state, replicated metrics, leaves (devices,), and what the loop must
            know, replicated as well.
        """
        self._check(state)
        step = self._pretrain if pretraining else self._train
        asked = np.full(self.devices, stop, np.int32)
        result: tuple[TrainState, Metrics, Control] = step(
            state, self.share(batch), self.numbers, asked
        )
        return result

    def evaluate(
        self, weights: Weights, batch: Any, memory: Any, limits: SolveLimits
    ) -> tuple[Metrics, Metrics, Any]:
        """Metrics and counts of one batch over all processes, and the memory that it hands on.

        Their leaves are (devices, ...); metrics and counts are the same for all devices.

        Args:
            weights: replicated.
            batch: this process's rows, on the host.
            memory: shared, leaves (devices, rows, ...), or None.
            limits: of the solves.
        """
        result: tuple[Metrics, Metrics, Any] = self._evaluate(
            weights, self.share(batch), memory, limits
        )
        return result

    def radius(
        self,
        weights: Weights,
        batch: Any,
        memory: Any,
        limits: SolveLimits,
        key: jax.Array,
    ) -> np.ndarray:
        """Spectral radius of each row that counts, of all processes, (rows,) float32, on the host.

        The rows are in no particular order.
        """
        found = self._radius(weights, self.share(batch), memory, limits, key)
        radii, counted = (first_replica(leaf).ravel() for leaf in found)
        result: np.ndarray = radii[counted]
        return result

    def differing(self, state: TrainState) -> int:
        """How many numbers of the state are not the same, bit for bit, on all devices.

        None unless some hardware failed or a step was not the same everywhere. The memory, which is
        each device's own, does not count.
        """
        if self.devices * self._processes == 1:
            return 0
        return int(first_replica(self._count(state._replace(memory=None))))

    def on_host(self, state: TrainState) -> TrainState:
        """The inverse of `place`: one copy of the state, and the memory of all rows."""
        rest = first_replica(state._replace(memory=None))
        if state.memory is None:
            return rest
        # with their numbers: the order of devices along the axis is the runtime's own affair
        numbers, memory = first_replica(self._gather((self.numbers, state.memory)))
        order = np.argsort(numbers)

        def joined(shares: np.ndarray) -> np.ndarray:
            """(all devices, rows, ...) as (all rows, ...) in their order."""
            return np.swapaxes(shares[order], 0, 1).reshape(-1, *shares.shape[2:])

        return rest._replace(memory=jax.tree.map(joined, memory))

    def place(self, state: TrainState) -> TrainState:
        """A state on the host, placed: copied to every device, its memory's rows shared out."""
        copies = self.replicate(state._replace(memory=None))
        if state.memory is None:
            return copies
        own = jax.tree.map(lambda leaf: leaf[self._process :: self._processes], state.memory)
        return copies._replace(memory=self._copy(self.share(own)))

    def replicate(self, tree: Tree) -> Tree:
        """Copy a tree to every local device; leaves get a leading axis (devices, ...)."""
        # stacked first, all copies would lie on one device for a moment
        copies: Tree = self._replicate(tree, self.numbers)
        return copies

    def place_weights(self, weights: Weights) -> Weights:
        """Weights on the host, copied to every device."""
        return self.replicate(weights)

    def share(self, tree: Tree) -> Tree:
        """Deal the rows of every leaf (rows, ...) out in turn: (devices, rows / devices, ...).

        Raises:
            ReplicaError: the rows cannot be shared evenly.
        """

        def split(leaf: Any) -> Any:
            if leaf.shape[0] % self.devices:
                raise ReplicaError(
                    f"a batch of {leaf.shape[0]} cannot be shared evenly by {self.devices} devices."
                )
            rows = leaf.shape[0] // self.devices
            return leaf.reshape(rows, self.devices, *leaf.shape[1:]).swapaxes(0, 1)

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


def _gathered(tree: Tree) -> Tree:
    """Of all devices, on every one: leaves (all devices, ...)."""
    result: Tree = lax.all_gather(tree, AXIS)
    return result


def _count_differing(tree: Any) -> jax.Array:
    """() int32, numbers whose bits differ between devices."""
    leaves = jax.tree.leaves(tree)
    return sum((count_differing(leaf, AXIS) for leaf in leaves), start=jnp.int32(0))
