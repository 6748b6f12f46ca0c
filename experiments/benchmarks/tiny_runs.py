"""Experiments at sizes that train in seconds, as options of the command line."""

import random
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[1]

_SOLVER = {
    "task.network.solver.max-steps": 6,
    "task.network.solver.backward-max-steps": 4,
    "task.network.solver.history": 2,
    "penalty.weight": 0.5,
    "penalty.probability": 0.5,
}
# records that average over steps on both sides of a checkpoint, and evaluations in between
_RHYTHM = {
    "checkpoint-every": 3,
    "log-every": 4,
    "evaluation.every": 6,
    "evaluation.batches": 2,
    "evaluation.final-batches": 2,
    "evaluation.radius-batches": 1,
    "average-decay": 0.99,
}
_TEXT = {
    "task.network.shape.length": 8,
    "task.network.shape.memory-length": 8,
    "task.network.shape.width": 8,
    "task.network.shape.heads": 2,
    "task.network.shape.hidden": 16,
    "task.network.shape.dropout": 0.1,
    "batch-size": 4,
    "task.text.corpus": "text_bytes",
    "order": "given",
}
_IMAGES = {
    "task.network.residual.channels": 4,
    "task.network.residual.groups": 2,
    "batch-size": 8,
    "task.images.augmentation.kind": "crop_flip",
    "task.images.augmentation.padding": 1,
    "threads": 2,
}
_OWN = {"penalty.probability": 0.5, "batch-size": 8, "task.width": 8}


def text_run(steps: int, folder: Path, file: Path | str) -> list[str]:
    """Arguments of ``deqjax train`` for text in streams, a model with memory and dropout.

    Args:
        steps: of the run.
        folder: for the prepared data.
        file: with the text.
    """
    places = {"task.text.file": file, "task.text.directory": folder / "data"}
    options = {"steps": steps, **_RHYTHM, **_SOLVER, **_TEXT, **places}
    return [str(EXPERIMENTS / "stdlib_lm.py"), *as_words(options)]


def image_run(steps: int) -> list[str]:
    """The same for digits, augmented in threads, and a model with batch normalizations."""
    options = {"steps": steps, **_RHYTHM, **_SOLVER, **_IMAGES}
    return [str(EXPERIMENTS / "vision" / "digits.py"), *as_words(options)]


def own_run(name: str, steps: int) -> list[str]:
    """The same for an experiment of one's own: its model, its rows, its optimizer."""
    options = {"steps": steps, **_RHYTHM, **_OWN}
    return [str(EXPERIMENTS / "own" / f"{name}.py"), *as_words(options)]


def write_text(file: Path, seed: int) -> None:
    """Write random words; texts of all seeds have the same length."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(200)]
    file.write_text(" ".join(draw.choices(words, k=6000))[:20_000])


def as_words(options: dict[str, object]) -> list[str]:
    """Options as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
