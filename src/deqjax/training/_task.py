"""What a kind of model brings to a run: its data, and how it is scored."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from deqjax.training.devices import DataParallel
from deqjax.training.step import SolveLimits, Weights

Rows: TypeAlias = Any
"""An array of a batch: NumPy's on the host, JAX's inside a step."""


class TrainBatches(abc.ABC):
    """This process's endless, resumable batches.

    Attributes:
        iterator: Grain's iterator, which holds the position: `get_state` and `set_state`.
    """

    iterator: Any

    @abc.abstractmethod
    def __next__(self) -> Any:
        """The next batch, on the host."""

    def close(self) -> None:
        """Let go of the processes that prepare batches, if there are any."""
        close = getattr(self.iterator, "close", None)
        if close is not None:
            close()


class Task(abc.ABC):
    """Data that a run trains on, and the scores of its model on them.

    Attributes:
        batches: of the training split.
        fingerprint: what the batches depend on, as JSON values.
        speed: name of the metric that counts examples a second.
        examples: of one step, over all devices and processes.
    """

    batches: TrainBatches
    fingerprint: Mapping[str, Any]
    speed: str
    examples: int

    @abc.abstractmethod
    def describe(self) -> str:
        """The training data in a few words, for the user."""

    @abc.abstractmethod
    def in_units(self, loss: float) -> dict[str, float]:
        """A loss as what people compare."""

    @abc.abstractmethod
    def evaluate(
        self,
        steps: DataParallel,
        weights: Weights,
        split: str,
        *,
        batches: int,
        limits: SolveLimits | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Score a model on a split.

        Args:
            steps: mapped steps.
            weights: replicated.
            split: "train", "validation" or "test".
            batches: batches to score at most.
            limits: tolerance and step limit of the solves; None is the configuration's.
            progress: is called before each batch.

        Returns:
            "loss" and its other units, scores of the task, solver statistics as in training, and
            "spectral_radius" (mean) and "spectral_radius_max" over rows.

        Raises:
            ConfigError: the split has nothing to score.
        """
