"""The task of solving puzzles."""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deqjax import data
from deqjax.data import DataError
from deqjax.models import PuzzleTransformer, Reasoner
from deqjax.nn import stablemax_cross_entropy
from deqjax.tasks._network import SOLVER_CHANGES, refused_as
from deqjax.tasks.reasoning._config import Puzzles, ReasonerNetwork, Supervision, Thinking
from deqjax.tasks.reasoning._evaluation import thought
from deqjax.tasks.reasoning._supervision import Carried, nothing_carried, supervised
from deqjax.training import ConfigError, Loss, Task


class Kept(NamedTuple):
    """What a network depends on in its puzzles.

    Attributes:
        tokens: how many there are.
        board: rows and columns.
    """

    tokens: int
    board: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ReasoningTask(Task):
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
    puzzles: Puzzles = dataclasses.field(default_factory=Puzzles)
    supervision: Supervision = dataclasses.field(default_factory=Supervision)
    thinking: Thinking = dataclasses.field(default_factory=Thinking)

    resumable: ClassVar[tuple[str, ...]] = (
        *SOLVER_CHANGES,
        "puzzles.directory",
        "puzzles.manual_directory",
        "puzzles.evaluation_size",
        "supervision",
        "thinking",
    )

    def check(self) -> None:
        """Raise a ConfigError for fields that do not go together."""
        shape, solver = self.network.shape, self.network.solver
        with refused_as("--task.network.shape"):
            shape.check()
        with refused_as("--task.network.solver"):
            solver.build_solver()
        with refused_as("--task.network.solver.adjoint"):
            solver.build_adjoint()
        if self.network.solves and solver.adjoint == "truncated":
            _check_gradient_steps(solver.max_steps, solver.backward_max_steps)
        fixed = shape.mixing == "mlp" or shape.positions == "rotary_2d"
        if fixed and self.puzzles.evaluation_size not in (None, self.puzzles.size):
            raise ConfigError(
                "--task.puzzles.evaluation_size asks for puzzles of another size than those of the "
                "training, which neither --task.network.shape.mixing mlp nor "
                "--task.network.shape.positions rotary_2d can take; leave it out."
            )

    def opened(self, kept: Mapping[str, Any] | None) -> Self:
        """The task with the sizes of its puzzles: counted, or those that a run has kept.

        Raises:
            DataError: the puzzles are missing or damaged.
            ConfigError: the network does not take them.
        """
        opened = copy.copy(self)
        if kept is not None:  # the puzzles are looked for when they are first asked for
            opened.__dict__.pop("found", None)
            opened.__dict__["kept"] = Kept(kept["tokens"], tuple(kept["board"]))
        object.__setattr__(opened, "network", _counted(self.network, opened.kept))
        return opened

    @functools.cached_property
    def kept(self) -> Kept:
        """What the network depends on in the puzzles."""
        return Kept(self.found.tokens, (self.found.height, self.found.width))

    @functools.cached_property
    def found(self) -> Any:
        """The puzzles.

        Raises:
            DataError: they are missing or damaged, or were others when the run began.
        """
        before: Kept | None = self.__dict__.get("kept")
        found = load_puzzles(self.puzzles, self.puzzles.size)
        now = Kept(found.tokens, (found.height, found.width))
        if before not in (None, now):
            raise DataError(
                "the puzzles have changed since the run began; give it those that it was trained on"
            )
        return found

    def keeps(self) -> Mapping[str, Any]:
        """The number of tokens and the board."""
        return {"tokens": self.kept.tokens, "board": list(self.kept.board)}

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

    def data(self, split: str) -> Any:
        """A split of the puzzles; training puzzles are changed at random as their rules allow."""
        size = self.puzzles.size if split == "train" else self.puzzles.evaluation_size
        if size in (None, self.puzzles.size):
            return getattr(self.found, split)
        return getattr(load_puzzles(self.puzzles, size), split)

    def example(self, rows: int) -> Any:
        """Random tokens; None as long as sizes of them are to be looked up."""
        shape = self.network.shape
        if shape.tokens is None or shape.length is None:
            return None
        drawn = np.random.default_rng(0).integers(0, shape.tokens, (2, rows, shape.length))
        return dict(zip(("inputs", "targets"), drawn.astype(np.int32), strict=True))

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


def _counted(network: ReasonerNetwork, kept: Kept) -> ReasonerNetwork:
    """The network with what its sizes leave open.

    Raises:
        ConfigError: they are those of other puzzles.
    """
    shape, length = network.shape, kept.board[0] * kept.board[1]
    found: dict[str, Any] = {"tokens": kept.tokens, "length": length, "board": kept.board}
    for name, value in found.items():
        own = getattr(shape, name)
        if own is not None and own != value:
            raise ConfigError(
                f"--task.network.shape.{name} is {own}, but that of the puzzles is {value}; leave "
                "it out, and it is counted."
            )
    return dataclasses.replace(network, shape=dataclasses.replace(shape, **found))


def load_puzzles(puzzles: Puzzles, size: int | None) -> Any:
    """Look for puzzles of a size.

    Raises:
        DataError: they are missing or damaged.
    """
    asked: dict[str, Any] = {
        "size": size,
        "count": puzzles.count,
        "difficulty": puzzles.difficulty,
    }
    source: Any = data
    return source.load_puzzles(
        puzzles.name,
        seed=puzzles.seed,
        directory=puzzles.directory,
        manual_directory=puzzles.manual_directory,
        **{name: value for name, value in asked.items() if value is not None},
    )
