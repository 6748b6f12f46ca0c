"""Two of the experiments at sizes that train in seconds, as options of the command line."""

import random
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[1]

_SOLVER = {
    "model.solver.max-steps": 6,
    "model.solver.backward-max-steps": 4,
    "model.solver.history": 2,
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
    "model.shape.length": 8,
    "model.shape.memory-length": 8,
    "model.shape.width": 8,
    "model.shape.heads": 2,
    "model.shape.hidden": 16,
    "model.shape.dropout": 0.1,
    "data.batch-size": 4,
    "data.corpus": "text_bytes",
    "data.order": "streams",
}
_IMAGES = {
    "model.residual.channels": 4,
    "model.residual.groups": 2,
    "data.batch-size": 8,
    "data.augmentation.kind": "crop_flip",
    "data.augmentation.padding": 1,
    "data.threads": 2,
}


def text_run(steps: int, folder: Path, file: Path | str) -> list[str]:
    """Arguments of ``deqjax train`` for text in streams, a model with memory and dropout.

    Args:
        steps: of the run.
        folder: for the prepared data.
        file: with the text.
    """
    places = {"data.file": file, "data.directory": folder / "data"}
    options = {"steps": steps, **_RHYTHM, **_SOLVER, **_TEXT, **places}
    return [str(EXPERIMENTS / "stdlib_lm.py"), *as_words(options)]


def image_run(steps: int) -> list[str]:
    """The same for digits, augmented in threads, and a model with batch normalizations."""
    options = {"steps": steps, **_RHYTHM, **_SOLVER, **_IMAGES}
    return [str(EXPERIMENTS / "vision" / "digits.py"), *as_words(options)]


def write_text(file: Path, seed: int) -> None:
    """Write random words; texts of all seeds have the same length."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(200)]
    file.write_text(" ".join(draw.choices(words, k=6000))[:20_000])


def as_words(options: dict[str, object]) -> list[str]:
    """Options as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
