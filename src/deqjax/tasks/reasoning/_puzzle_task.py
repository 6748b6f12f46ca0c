"""What every task of puzzles has: its puzzles, and the sizes of its network that they decide."""

import abc
import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from deqjax import data
from deqjax.data import DataError, PuzzleSet
from deqjax.tasks._network import SOLVER_CHANGES, refused_as
from deqjax.tasks.reasoning._config import Puzzles
from deqjax.training import ConfigError, Task


class Kept(NamedTuple):
    """What a network depends on in its puzzles.

    Attributes:
        tokens: how many there are.
        board: rows and columns.
    """

    tokens: int
    board: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class PuzzleTask(Task):
    """Fill in the answer of a puzzle, cell by cell.

    The base of tasks that say which ``network`` it is, and what an evaluation does.

    Attributes:
        network: which network is trained.
        puzzles: what it is trained on.
        thinking: what an evaluation does, from how many ``starts``.
        resumable: what may differ when a run goes on.
    """

    network: Any = None
    puzzles: Puzzles = dataclasses.field(default_factory=Puzzles)
    thinking: Any = None

    resumable: ClassVar[tuple[str, ...]] = (
        *SOLVER_CHANGES,
        "puzzles.directory",
        "puzzles.manual_directory",
        "puzzles.evaluation_size",
        "puzzles.evaluation_count",
        "thinking",
    )

    def check(self) -> None:
        """Raise a ConfigError for fields that do not go together."""
        with refused_as("--task.network.solver"):
            self.network.solver.build_solver()
        with refused_as("--task.network.solver.adjoint"):
            self.network.solver.build_adjoint()
        if self.thinking.starts > 1 and not self.network.solves:
            raise ConfigError(
                f"--task.thinking.starts {self.thinking.starts} asks for several starts, but a "
                f"network of --task.network.kind {self.network.kind} is explicit and has none; "
                "leave it out, or give 1."
            )
        puzzles = self.puzzles
        if puzzles.evaluation_count is not None and not self._evaluates_another_size:
            raise ConfigError(
                f"--task.puzzles.evaluation_count {puzzles.evaluation_count} is of puzzles of "
                "another size than those of the training; give --task.puzzles.evaluation_size, or "
                "leave it out."
            )

    @abc.abstractmethod
    def counted(self, kept: Kept) -> Any:
        """The network with what its sizes leave open.

        Raises:
            ConfigError: they are those of other puzzles.
        """

    def opened(self, kept: Mapping[str, Any] | None) -> Self:
        """The task with the sizes of its puzzles: counted, or those that a run has kept.

        Raises:
            DataError: the puzzles are missing or damaged.
            ConfigError: the network does not take them.
        """
        opened = copy.copy(self)
        if kept is not None:  # the puzzles are looked for when they are first asked for
            opened.__dict__.pop("found", None)
            opened.__dict__.pop("evaluated", None)
            opened.__dict__["kept"] = Kept(kept["tokens"], tuple(kept["board"]))
        object.__setattr__(opened, "network", self.counted(opened.kept))
        return opened

    @functools.cached_property
    def kept(self) -> Kept:
        """What the network depends on in the puzzles."""
        return Kept(self.found.tokens, (self.found.height, self.found.width))

    @functools.cached_property
    def found(self) -> PuzzleSet:
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

    @functools.cached_property
    def evaluated(self) -> PuzzleSet:
        """The puzzles whose validation and test splits are scored.

        Raises:
            DataError: they are missing or damaged.
        """
        if not self._evaluates_another_size:
            return self.found
        puzzles, count = self.puzzles, self.puzzles.evaluation_count
        if count is not None:  # of those that are made a tenth is held out
            puzzles = dataclasses.replace(puzzles, count=10 * count)
        return load_puzzles(puzzles, puzzles.evaluation_size)

    @property
    def _evaluates_another_size(self) -> bool:
        return self.puzzles.evaluation_size not in (None, self.puzzles.size)

    def keeps(self) -> Mapping[str, Any]:
        """The number of tokens and the board."""
        return {"tokens": self.kept.tokens, "board": list(self.kept.board)}

    def data(self, split: str) -> Any:
        """A split of the puzzles; training puzzles are changed at random as their rules allow."""
        return getattr(self.found if split == "train" else self.evaluated, split)

    def throughput(self, rows: int) -> tuple[str, int]:
        """Puzzles."""
        return "puzzles", rows


def made_up(rows: int, tokens: int, length: int) -> dict[str, np.ndarray]:
    """Random tokens in the place of puzzles and answers."""
    drawn = np.random.default_rng(0).integers(0, tokens, (2, rows, length))
    return dict(zip(("inputs", "targets"), drawn.astype(np.int32), strict=True))


def load_puzzles(puzzles: Puzzles, size: int | None) -> PuzzleSet:
    """Look for puzzles of a size.

    Raises:
        DataError: they are missing or damaged.
    """
    return data.load_puzzles(
        puzzles.name,
        size=size,
        count=puzzles.count,
        seed=puzzles.seed,
        difficulty=puzzles.difficulty,
        augment=puzzles.augment,
        directory=puzzles.directory,
        manual_directory=puzzles.manual_directory,
    )
