"""``deqjax evaluate``."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from deqjax.cli._devices import use_devices
from deqjax.cli._tables import print_depths, print_scores
from deqjax.cli._usage import UsageError


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a run's newest checkpoint.

    Attributes:
        folder: folder of the run.
        split: which part of the data to score.
        overlays: folder for pictures of a segmentation's first images, labels and predictions.
        checkpoint: "newest", "best" (lowest validation loss), or a step.
        max_steps: forward steps at most, instead of the run's.
        tol: relative tolerance of the solve, instead of the run's.
        devices: number of virtual CPU devices; without it, every device of the machine.
        depths: step limits to score it at, without tolerance, instead of the usual table; of a
            reasoner the cycles that it thinks.
        starts: random starts of each puzzle that is thought from, instead of the run's.
        size: of the puzzles, such as bits of a prefix sum, instead of the run's.
        count: of the puzzles of that size.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    split: Literal["validation", "test"] = "validation"
    checkpoint: Literal["newest", "best"] | int = "newest"
    max_steps: int | None = None
    tol: float | None = None
    devices: int | None = None
    overlays: Path | None = None
    depths: tuple[int, ...] | None = None
    starts: int | None = None
    size: int | None = None
    count: int | None = None

    def run(self) -> int:
        """Score, and print a table."""
        use_devices(self.devices)
        if self.depths is not None:
            return self._sweep_depths(self.depths)
        from deqjax.tasks.vision import write_overlays
        from deqjax.training import evaluate_run

        asked: dict[str, Any] = {
            "split": self.split,
            "checkpoint": self.checkpoint,
            "max_steps": self.max_steps,
            "tol": self.tol,
        }
        files = []
        if self.overlays is not None and self._task:
            raise UsageError("--overlays shows images; drop what is for puzzles.")
        if self.overlays is not None:  # first, because it may be refused
            files = write_overlays(self.folder, self.overlays, **asked)
        scores = evaluate_run(self.folder, **asked, task=self._task)
        print_scores(f"{self.folder}, {self.split} data", scores)
        if self.overlays is not None:
            print(f"{len(files)} pictures (image, labels, prediction): {self.overlays}")
        return 0

    @property
    def _task(self) -> dict[str, Any]:
        """Fields of the task that are asked for instead of the run's."""
        asked = {
            "thinking.starts": self.starts,
            "puzzles.evaluation_size": self.size,
            "puzzles.evaluation_count": self.count,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def _sweep_depths(self, depths: tuple[int, ...]) -> int:
        """Score the run at each of the depths that are asked for."""
        for name in ("max_steps", "tol", "overlays"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"--depths says how far to solve; drop --{name.replace('_', '-')}."
                )
        from deqjax.training import sweep_depths

        found = sweep_depths(
            self.folder, depths, split=self.split, checkpoint=self.checkpoint, task=self._task
        )
        print_depths(f"{self.folder}, {self.split} data, by solver steps", found)
        return 0
