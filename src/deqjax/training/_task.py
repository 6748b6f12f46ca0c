"""What a run trains: the whole contract between the engine and a task."""

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import optax
from flax import nnx
from jax.sharding import PartitionSpec

from deqjax.training._options import ConfigError
from deqjax.training.step import Loss


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A model, its data and its loss; a frozen dataclass whose fields are a run's options.

    Three methods are needed: ``model``, ``data`` and ``loss``. The engine finds the equilibrium
    layers ([`deqjax.nn.DEQ`][], and [`deqjax.linen.DEQ`][] behind Flax's bridge) in the model by
    itself, at any depth: it reports their solves, penalizes their Jacobians and limits their steps
    without a word in the task. All else has a default.

    Attributes:
        resumable: names of fields (with all below them) that may differ when a run goes on.

    Examples:
        >>> import dataclasses
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from flax import nnx
        >>> from deqjax import nn, training
        >>> class Cell(nnx.Module):
        ...     def __init__(self, width, rngs):
        ...         start = nnx.initializers.normal(0.1)
        ...         self.linear = nnx.Linear(width, width, kernel_init=start, rngs=rngs)
        ...     def __call__(self, z, u):
        ...         return jnp.tanh(self.linear(z) + u)
        >>> @dataclasses.dataclass(frozen=True)
        ... class Parity(training.Task):
        ...     width: int = 16
        ...     def model(self, rngs):
        ...         inject = nnx.Linear(4, self.width, rngs=rngs)
        ...         return nnx.Sequential(inject, nn.DEQ(Cell(self.width, rngs)))
        ...     def data(self, split):
        ...         bits = np.random.default_rng(len(split)).integers(0, 2, (64, 4))
        ...         return {"bits": np.float32(bits), "odd": bits.sum(axis=1) % 2}
        ...     def loss(self, model, batch):
        ...         logits, label = model(batch["bits"]).value[:, :2], batch["odd"]
        ...         losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        ...         return training.Loss(losses, counts={"accuracy": logits.argmax(-1) == label})
        >>> task = training.RunConfig("parity", task=Parity(), steps=20).task
        >>> task.loss(task.model(nnx.Rngs(0)), task.data("train")).losses.shape
        (64,)
    """

    resumable: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model, freshly initialized: any NNX module, or a Linen one behind Flax's bridge.

        Args:
            rngs: streams of the run's seed.
        """

    @abc.abstractmethod
    def data(self, split: str) -> Any:
        """The rows of a split.

        Args:
            split: "train", "validation" or "test".

        Returns:
            NumPy arrays in a dictionary or tuple, axis 0 of all the rows; a Grain ``MapDataset`` or
            ``IterDataset`` of rows; any sequence of rows, such as a data source of TFDS; or a
            [`deqjax.training.Pipeline`][] that makes batches of its own. A row is a pytree of
            numbers. None is no such split, which only "test" may be.
        """

    @abc.abstractmethod
    def loss(self, model: Any, batch: Any) -> Loss:
        """What the model makes of a batch; runs inside jit.

        Args:
            model: as made by ``model``, in training or evaluation mode.
            batch: rows of one device, the leaves of ``data``'s rows with the rows as axis 0.

        A task with a ``memory`` is given that as a third argument.
        """

    def check(self) -> None:
        """Raise a ValueError for fields that do not go together; by itself all do."""
        return

    def opened(self, kept: Mapping[str, Any] | None) -> "Task":
        """The task with what its model depends on in its data, such as the number of classes.

        Called once a run, before all else; by itself the task as it is.

        Args:
            kept: what ``keeps`` of a run that goes on, or is used; None for a new run.
        """
        del kept
        return self

    def keeps(self) -> Mapping[str, Any] | None:
        """What an opened task has from its data, as JSON values, to be kept with the run."""
        return None

    def example(self, rows: int) -> Any:
        """Made-up rows, as ``loss`` takes them, for planning a run whose data are not there.

        Only called on a task that was not ``opened``, whose ``model`` must then build without its
        data, too. None, as by itself, takes a batch of its training data instead.

        Args:
            rows: so many.
        """
        del rows

    def optimizer(self, steps: int) -> optax.GradientTransformation | None:
        """How weights are updated; None is the one of the run's options.

        Args:
            steps: of the whole run.
        """
        del steps
        return None

    def rates(self) -> Mapping[str, float]:
        """Learning rates of some parameters, as factors on that of all others.

        A pattern of parameters' names, as in ``sharding`` -> factor; the first that fits decides.
        What the optimizer makes of a gradient is multiplied, weight decay included.
        """
        return {}

    def memory(self, model: Any, rows: int) -> Any:
        """What the rows of a first batch remember, leaves (rows, ...); None for no memory.

        With one, ``loss`` takes it as its third argument and returns the one that its rows hand on
        to the same rows of the next batch. Zeros must be an empty one: that is what follows a step
        that was left out, or going back to a checkpoint after some.
        """
        del model, rows
        return None

    def sharding(self) -> Mapping[str, PartitionSpec | None]:
        """Rules for ``--parallel sharded``: how parameters are divided among the devices.

        A pattern of parameters' names (``deq.cell.*.kernel``; ``*`` stands for anything) -> which
        axis of the array is divided over which devices: "model" are those that share the work on a
        row, "data" all groups of these. The first pattern that fits decides. A rule that does not
        name "data" is completed by the largest axis that is left, which without "model" is divided
        over both, and gathered for the step. An axis that a number of devices does not divide stays
        whole; None keeps a parameter whole on every device.

        What no rule names is divided by itself: the last axis of matrices and kernels over "model",
        the largest of the others over "data".
        """
        return {}

    def in_units(self, loss: float) -> dict[str, float]:
        """A loss as what people compare, "loss" itself first."""
        return {"loss": loss}

    def scores(self, counts: Mapping[str, np.ndarray], weight: float) -> dict[str, float]:
        """What a pass over a split has found, of the counts of ``loss``.

        Args:
            counts: summed over all rows.
            weight: the sum of all weights.
        """
        return {name: float(total) / weight for name, total in counts.items() if total.ndim == 0}

    def baselines(self, batches: Iterable[Any]) -> dict[str, float]:
        """Scores of something else on the very batches of an evaluation, to stand beside them.

        The picture of a run draws one that is called NAME_loss as a line beside the loss.

        Args:
            batches: the rows of all processes, on the host.
        """
        del batches
        return {}

    def throughput(self, rows: int) -> tuple[str, int]:
        """What is counted each second, and how much of it so many rows are: ("rows", rows)."""
        return "rows", rows

    def adopt(self, model: nnx.Module) -> Self:
        """The task with the kind and the sizes of a model that was built elsewhere.

        Raises:
            ConfigError: it cannot train it.
        """
        raise ConfigError(f"a {type(self).__name__} adopts no {type(model).__name__}.")
