"""What the loop knows of the devices: the steps of a problem on all of them, however they share it.

Two engines do this: `DataParallel` gives each device a copy of the state, `ShardedParallel` divides
the state among them.
"""

from typing import Any, Protocol

import jax
import numpy as np

from deqjax.training.step import Control, Metrics, Problem, SolveLimits, TrainState, Weights

AXIS = "data"
"""The axis of the devices that share a batch, which a model's own collectives may name."""


class ReplicaError(RuntimeError):
    """A state or a batch does not fit the devices, or was already given away."""


class Parallel(Protocol):
    """The steps of a problem on all devices of all processes.

    A *placed* state is where the devices compute with it, in the engine's own form; `on_host`
    gives the form that checkpoints have, which is the same for all engines.

    Attributes:
        problem: what is trained.
        devices: number of this process's devices.
        shares: parts that the rows of this process are dealt out in.
    """

    problem: Problem
    devices: int
    shares: int

    def train(
        self, state: TrainState, batch: Any, *, stop: int = 0, pretraining: bool = False
    ) -> tuple[TrainState, Metrics, Control]:
        """One step; ``state`` is given away and must not be used again.

        Args:
            state: placed.
            batch: this process's rows, on the host.
            stop: number of the signal that asked this process to stop, or 0.
            pretraining: whether the step belongs to the warm-up stage.

        Returns:
            The next placed state; metrics, and what the loop must know, both for `first_replica`.
        """
        ...

    def evaluate(
        self, weights: Weights, batch: Any, memory: Any, limits: SolveLimits
    ) -> tuple[Metrics, Metrics, Any]:
        """Metrics and counts of one batch over all processes, and the memory that it hands on.

        Args:
            weights: placed.
            batch: this process's rows, on the host.
            memory: as `share` or an earlier call returned it, or None.
            limits: of the solves.

        Returns:
            Metrics and counts for `first_replica`, and the memory.
        """
        ...

    def radius(
        self, weights: Weights, batch: Any, memory: Any, limits: SolveLimits, key: jax.Array
    ) -> np.ndarray:
        """Spectral radius of each row that counts, of all processes, (rows,) float32, on the host.

        The rows are in no particular order.
        """
        ...

    def differing(self, state: TrainState) -> int:
        """How many numbers that devices hold copies of are not the same on all of them.

        None unless some hardware failed or a step was not the same everywhere.
        """
        ...

    def on_host(self, state: TrainState) -> TrainState:
        """The inverse of `place`: the whole state once; all processes must take part."""
        ...

    def place(self, state: TrainState) -> TrainState:
        """A state on the host, with the memory of all rows, on the devices."""
        ...

    def place_weights(self, weights: Weights) -> Weights:
        """Weights on the host, on the devices."""
        ...

    def share(self, tree: Any) -> Any:
        """Deal the rows of every leaf (rows, ...) of this process out to its devices.

        Raises:
            ReplicaError: the rows cannot be shared evenly.
        """
        ...
