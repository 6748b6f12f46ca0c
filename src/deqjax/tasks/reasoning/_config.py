"""What a reasoning task trains, how, and on which puzzles."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Interval

from deqjax._ranges import Count, NotNegative, Seed, Share, Size, Steps
from deqjax.models import (
    ReasonerShape,
    RecallShape,
    SolverSettings,
    reasoner_settings,
    recall_settings,
)


@dataclasses.dataclass(frozen=True)
class ReasonerNetwork:
    """Which network is trained.

    Attributes:
        kind: "reasoner", or "transformer", the same layers applied once: the explicit baseline.
        shape: sizes and options; tokens, length and board of None are counted.
        solver: how a pass iterates, ``max_steps`` cycles, and how it is differentiated.
    """

    kind: Literal["reasoner", "transformer"] = "reasoner"
    shape: ReasonerShape = dataclasses.field(default_factory=ReasonerShape)
    solver: SolverSettings = dataclasses.field(default_factory=reasoner_settings)

    @property
    def solves(self) -> bool:
        """Whether it is an equilibrium model."""
        return self.kind == "reasoner"


@dataclasses.dataclass(frozen=True)
class RecallNetwork:
    """Which convolutional network is trained.

    Attributes:
        kind: "recall" iterates one layer, "convolutional" is an explicit stack of the shape's
            blocks.
        shape: sizes; tokens of None are counted.
        solver: how it is iterated and differentiated in training.
    """

    kind: Literal["recall", "convolutional"] = "recall"
    shape: RecallShape = dataclasses.field(default_factory=RecallShape)
    solver: SolverSettings = dataclasses.field(default_factory=recall_settings)

    @property
    def solves(self) -> bool:
        """Whether it is an equilibrium model."""
        return self.kind == "recall"


@dataclasses.dataclass(frozen=True)
class Starts:
    """Where solves of the training start: a fixed point that must not depend on it does not.

    Attributes:
        carried: share of the rows that start where the row's puzzle of the step before ended.
        random: share that starts at random states; the rest starts at zero.
    """

    carried: Share = 0.5
    random: Share = 0.25


@dataclasses.dataclass(frozen=True)
class Iterating:
    """How an evaluation iterates.

    Attributes:
        steps: at most.
        tol: relative residual at which a puzzle is done.
        starts: of each puzzle: zero, and so many less one at random, the same for every puzzle.
        seed: of the random starts.
    """

    steps: Steps = 256
    tol: NotNegative = 1e-4
    starts: Size = 1
    seed: Seed = 0


@dataclasses.dataclass(frozen=True)
class Puzzles:
    """What it is trained on.

    Attributes:
        name: "sudoku4", "sudoku6", "sudoku9", "mazes" and "prefix_sums" are generated;
            "sudoku_extreme" and "maze_hard" are the published files.
        size: bits of a prefix sum, cells along a side of a maze; None is the puzzles' own.
        evaluation_size: of the validation and test puzzles; None is ``size``.
        evaluation_count: how many of another size there are for each of the two; None is as of
            the training's size, a tenth of its puzzles.
        count: training puzzles; None is the puzzles' own number.
        difficulty: of generated puzzles: "easy", "medium", "hard", or "mixed".
        seed: of generated puzzles.
        augment: whether training puzzles are changed at random as their rules allow.
        directory: folder of prepared data sets, None is TFDS's default.
        manual_directory: folder of downloaded files; None is TFDS's default.
    """

    name: str = "sudoku4"
    size: Size | None = None
    evaluation_size: Size | None = None
    evaluation_count: Annotated[int, Interval(ge=1, le=10_000_000)] | None = None
    count: Count | None = None
    difficulty: str = "mixed"
    seed: Seed = 0
    augment: bool = True
    directory: str | None = None
    manual_directory: str | None = None


@dataclasses.dataclass(frozen=True)
class Supervision:
    """How a reasoner is trained: by several passes on a puzzle, each with a loss and an update.

    Attributes:
        passes: on one puzzle at most.
        exploration: probability that a puzzle may not leave before a random pass, however sure the
            model is.
        halting_weight: of the loss of the halting number beside that of the answer; a half, as the
            hierarchical and the tiny recursive model were trained.
    """

    passes: Count = 16
    exploration: Share = 0.1
    halting_weight: NotNegative = 0.5


@dataclasses.dataclass(frozen=True)
class Thinking:
    """How an evaluation thinks.

    Attributes:
        passes: on a puzzle, each of as many cycles as one of training; none halts earlier.
        starts: random starts of a puzzle, the same for every puzzle.
        seed: of the starts.
    """

    passes: Count = 16
    starts: Size = 1
    seed: Seed = 0
