"""The task of solving puzzles."""

import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from deqjax.models import PuzzleTransformer, Reasoner
from deqjax.nn import stablemax_cross_entropy
from deqjax.tasks._network import refused_as
from deqjax.tasks.reasoning._config import ReasonerNetwork, Supervision, Thinking
from deqjax.tasks.reasoning._evaluation import thought
from deqjax.tasks.reasoning._puzzle_task import Kept, PuzzleTask, made_up
from deqjax.tasks.reasoning._supervision import Carried, nothing_carried, supervised
from deqjax.training import ConfigError, Loss


@dataclasses.dataclass(frozen=True)
class ReasoningTask(PuzzleTask):
    """Fill in the answer of a puzzle, cell by cell; losses are in nats a cell.

    A reasoner is trained by deep supervision: a row of the batch keeps its puzzle for some steps,
    each a pass with a loss and an update, and its states in between. In evaluation mode it thinks
    for ``thinking.passes`` passes without looking at its halting number, from random starts that
    are always the same; the loss is then that of the answer alone.

    Scores, over puzzles and starts: "cells" that are right, whole boards ("exact"), how many the
    model takes for solved ("halted") and how often it is right in that ("judged"). With several
    starts "exact_by_residual" and "exact_by_halting", of the answer that is picked for each puzzle,
    and "same_answer", the share of puzzles on which all starts agree.

    Attributes:
        network: which network is trained.
        puzzles: what it is trained on.
        supervision: how long a puzzle is kept.
        thinking: what an evaluation does.
        resumable: what may differ when a run goes on.
    """

    network: ReasonerNetwork = dataclasses.field(default_factory=ReasonerNetwork)
    supervision: Supervision = dataclasses.field(default_factory=Supervision)
    thinking: Thinking = dataclasses.field(default_factory=Thinking)

    resumable: ClassVar[tuple[str, ...]] = (*PuzzleTask.resumable, "supervision")

    def check(self) -> None:
        """Raise a ConfigError for fields that do not go together."""
        shape, solver = self.network.shape, self.network.solver
        with refused_as("--task.network.shape"):
            shape.check()
        super().check()
        if self.network.solves and solver.adjoint == "truncated":
            _check_gradient_steps(solver.max_steps, solver.backward_max_steps)
        fixed = shape.mixing == "mlp" or shape.positions == "rotary_2d"
        if fixed and self._evaluates_another_size:
            raise ConfigError(
                "--task.puzzles.evaluation_size asks for puzzles of another size than those of the "
                "training, which neither --task.network.shape.mixing mlp nor "
                "--task.network.shape.positions rotary_2d can take; leave it out."
            )

    @refused_as("--task.network")
    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The network, freshly initialized.

        Raises:
            ConfigError: sizes that do not go together.
        """
        network = self.network
        if not network.solves:
            return PuzzleTransformer(network.shape, rngs=rngs)
        cycles = self.thinking.passes * network.solver.max_steps
        return Reasoner(network.shape, network.solver, cycles=cycles, rngs=rngs)

    def counted(self, kept: Kept) -> ReasonerNetwork:
        """The network with what its sizes leave open.

        Raises:
            ConfigError: they are those of other puzzles.
        """
        shape, length = self.network.shape, kept.board[0] * kept.board[1]
        found: dict[str, Any] = {"tokens": kept.tokens, "length": length, "board": kept.board}
        for name, value in found.items():
            own = getattr(shape, name)
            if own is not None and own != value:
                raise ConfigError(
                    f"--task.network.shape.{name} is {own}, but that of the puzzles is {value}; "
                    "leave it out, and it is counted."
                )
        return dataclasses.replace(self.network, shape=dataclasses.replace(shape, **found))

    def example(self, rows: int) -> Any:
        """Random tokens; None as long as sizes of them are to be looked up."""
        shape = self.network.shape
        if shape.tokens is None or shape.length is None:
            return None
        return made_up(rows, shape.tokens, shape.length)

    def memory(self, model: Any, rows: int) -> Carried | None:
        """Puzzles that the rows are at, and their states; nothing for an explicit network."""
        del model
        shape = self.network.shape
        if not self.network.solves:
            return None
        if shape.length is None:
            raise ConfigError(
                "--task.network.shape.length is not known as long as the puzzles are not there; "
                "give it."
            )
        return nothing_carried(rows, shape.length, shape.width)

    def loss(self, model: Any, batch: Any, memory: Carried | None = None) -> Loss:
        """Answer puzzles: in training mode a pass of each row, in evaluation mode all of them."""
        if isinstance(model, PuzzleTransformer):
            return _answered_at_once(model, batch)
        if model.deterministic:
            return thought(model, batch, memory, self.thinking)
        assert memory is not None  # for the type checker: a reasoner has one
        return supervised(model, batch, memory, self.supervision)

    def throughput(self, rows: int) -> tuple[str, int]:
        """Passes on puzzles."""
        return "passes", rows

    def adopt(self, model: nnx.Module) -> Self:
        """The task with the sizes of a reasoner that was built elsewhere; noise and dtype stay."""
        if not isinstance(model, Reasoner):
            raise ConfigError(
                f"a run of puzzles adopts a Reasoner, not a {type(model).__name__}; give another "
                "recipe."
            )
        wanted = self.network.shape
        shape = dataclasses.replace(model.shape, noise=wanted.noise, dtype=wanted.dtype)
        own = dataclasses.replace(self.network, kind="reasoner", shape=shape)
        return dataclasses.replace(self, network=own)


def _answered_at_once(model: PuzzleTransformer, batch: Any) -> Loss:
    logits = model(batch["inputs"])
    targets: jax.Array = batch["targets"]
    right = logits.argmax(-1) == targets
    nats = stablemax_cross_entropy(logits, targets).mean(-1)
    return Loss(nats, counts={"cells": jnp.mean(right, -1), "exact": right.all(-1)})


def _check_gradient_steps(cycles: int, differentiated: int) -> None:
    if not 1 <= differentiated <= cycles:
        raise ConfigError(
            f"--task.network.solver.backward_max_steps {differentiated} must lie between 1 and the "
            f"{cycles} cycles of a pass (--task.network.solver.max_steps)."
        )
